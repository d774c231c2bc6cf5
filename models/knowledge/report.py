"""What a command says on stderr: how far it is (a bar on a terminal, else a line now and then), and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import typer
from rich.console import Console

from models.errors import ModelsError
from models.knowledge.encoders import Report
from models.progress import bar

SECONDS_BETWEEN_LINES: Final = 15.0


def stderr_console() -> Console:
    """A console that prints lines as they are: no wrapping, no markup in paths, no colours in numbers."""
    return Console(stderr=True, soft_wrap=True, markup=False, highlight=False)


@contextmanager
def reporting(console: Console, label: str, unit: str, detail: Callable[[], str] | None = None) -> Iterator[Report]:
    """A function to call with (done, total); `unit` names what is counted, `detail` says more, such as the cost."""
    started = last = time.monotonic()
    with bar(console, "detail") as progress:
        task = progress.add_task(f"{label} ({unit})", total=None, detail="")

        def report(done: int, total: int) -> None:
            nonlocal last
            more = detail() if detail else ""
            progress.update(task, completed=done, total=total, detail=more)
            now = time.monotonic()
            if not console.is_terminal and now - last >= SECONDS_BETWEEN_LINES and 0 < done < total:
                last = now
                rate = done / (now - started)
                left = (total - done) / rate
                line = f"{label}: {done:,} of {total:,} {unit}, {rate:,.1f}/s, about {left:.0f} s left"
                console.print(f"{line}; {more}" if more else line)

        yield report


@contextmanager
def exit_codes(console: Console) -> Iterator[None]:
    """Errors become one line and code 1, Ctrl-C one line and code 130."""
    try:
        yield
    except ModelsError as error:
        console.print(f"error: {error}", style="red")
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        console.print("interrupted: finished files are kept, the same command goes on after them")
        raise typer.Exit(130) from error
