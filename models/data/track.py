"""How far a loop over data is, told to the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

T = TypeVar("T")
SECONDS_BETWEEN_LINES: Final = 10.0


def track(
    values: Iterable[T], description: str, total: int, done: Callable[[], int] | None = None, every: int = 1
) -> Iterator[T]:
    """The same values, one by one, while stderr tells how far they are.

    A terminal gets a bar that disappears when it is full. Anything else gets a line every 10 s, none if it is faster.

    Args:
        total: what `done` ends at.
        done: how far we are; by default the number of values so far.
        every: look at `done` once in so many values, where a value takes microseconds.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total)
        last_line = time.monotonic()
        for n_values, value in enumerate(values, start=1):
            yield value
            if n_values % every:
                continue
            n_done = done() if done else n_values
            progress.update(task, completed=n_done)
            if not console.is_terminal and time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
                last_line = time.monotonic()
                print(f"{description}: {n_done / max(1, total):.0%}", file=sys.stderr, flush=True)
