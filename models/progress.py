"""One look for every progress bar of the offline half."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def bar(console: Console, *fields: str) -> Progress:
    """A progress bar on a terminal, nothing elsewhere; `fields` are extra texts a task carries."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *(TextColumn("{task.fields[" + field + "]}") for field in fields),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
