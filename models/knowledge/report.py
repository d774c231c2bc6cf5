"""What a command says on stderr: how far it is (a bar on a terminal, else a line now and then)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console

from models.knowledge.encoders import Report
from models.progress import bar

SECONDS_BETWEEN_LINES: Final = 15.0
KEPT: Final = "finished files are kept, the same command goes on after them"  # what Ctrl-C leaves


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
