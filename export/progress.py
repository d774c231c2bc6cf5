"""Steps of a command: a bar on a terminal, one line a step elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from models.progress import bar


@contextmanager
def steps(console: Console, total: int) -> Iterator[Callable[[str], None]]:
    """A function to call with what begins now; `total` calls fill the bar."""
    with bar(console) as progress:
        task = progress.add_task("starting", total=total)
        started = 0

        def begin(message: str) -> None:
            nonlocal started
            progress.update(task, description=message, completed=started)
            started += 1
            if not console.is_terminal:
                console.print(message, highlight=False)

        yield begin
        progress.update(task, completed=total)
