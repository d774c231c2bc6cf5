"""Says on stderr how far a stage of a build is: a bar with time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console

from models.knowledge.encoders import Report
from models.progress import bar

SECONDS_BETWEEN_LINES: Final = 15.0


def stderr_console() -> Console:
    """A console that prints lines as they are: no wrapping, no markup in paths, no colours in numbers."""
    return Console(stderr=True, soft_wrap=True, markup=False, highlight=False)


@contextmanager
def reporting(console: Console, label: str, unit: str) -> Iterator[Report]:
    """A function to call with (done, total); `unit` names what is counted."""
    started = last = time.monotonic()
    with bar(console) as progress:
        task = progress.add_task(f"{label} ({unit})", total=None)

        def report(done: int, total: int) -> None:
            nonlocal last
            progress.update(task, completed=done, total=total)
            now = time.monotonic()
            if not console.is_terminal and now - last >= SECONDS_BETWEEN_LINES and 0 < done < total:
                last = now
                rate = done / (now - started)
                left = (total - done) / rate
                console.print(f"{label}: {done:,} of {total:,} {unit}, {rate:,.0f}/s, about {left:.0f} s left")

        yield report
