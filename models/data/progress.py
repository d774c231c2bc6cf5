"""Says on stderr how far a loop is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0


def track(values: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """The same values, one by one, while stderr tells how many have passed.

    A terminal gets a bar that disappears when it is done. Anything else gets one line every 10 s, none if it is faster.
    """
    if sys.stderr.isatty():
        console = Console(stderr=True)
        yield from rich_track(values, description, total=total, console=console, transient=True)
        return
    last = time.monotonic()
    for n_done, value in enumerate(values):
        yield value
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"{description}: {n_done + 1:,}{f' of {total:,}' if total else ''}", file=sys.stderr, flush=True)
