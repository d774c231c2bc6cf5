"""Progress on stderr: a bar on a terminal, a plain line now and then elsewhere. And a Ctrl-C that keeps results."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

# update(done, note): done in the unit of `total`.
Update = Callable[[float, str], None]

_LINE_EVERY_S = 10.0


@contextmanager
def progress(title: str, total: float) -> Iterator[Update]:
    """A function to report progress with, while the block runs."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(title, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as bar:
        task = bar.add_task(title, total=total, note="")
        yield lambda done, note: bar.update(task, completed=done, note=note)


def _plain(title: str, total: float) -> Update:
    last_s = monotonic()

    def update(done: float, note: str) -> None:
        nonlocal last_s
        if monotonic() - last_s >= _LINE_EVERY_S:
            last_s = monotonic()
            print(f"{title}: {done:.0f} of {total:.0f} {note}", file=sys.stderr, flush=True)

    return update


@contextmanager
def stop_on_interrupt() -> Iterator[asyncio.Event]:
    """An event that the first Ctrl-C sets, so that a run ends early and still writes what it measured.

    A second Ctrl-C interrupts at once.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def interrupt() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        print("stopping; what was measured is kept (Ctrl-C again to give up)", file=sys.stderr, flush=True)
        stop.set()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield stop
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def sleep_unless(stop: asyncio.Event, seconds: float) -> bool:
    """True after `seconds`, False as soon as `stop` is set."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await stop.wait()
    except TimeoutError:
        return True
    return False
