"""How every command of the offline half speaks on stderr when it ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer
from rich.console import Console

from models.errors import ModelsError


def stderr_console() -> Console:
    """A console that prints lines as they are: no wrapping, no markup in paths, no colours in numbers."""
    return Console(stderr=True, soft_wrap=True, markup=False, highlight=False)


@contextmanager
def exit_codes(what_is_kept: str, console: Console | None = None) -> Iterator[None]:
    """An error becomes one line and exit code 1; Ctrl-C and SIGTERM one line that says `what_is_kept` and 130."""
    console = console or stderr_console()
    try:
        with _sigterm_interrupts():
            yield
    except ModelsError as error:
        console.print(f"error: {error}", style="red")
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        console.print(f"interrupted: {what_is_kept}")
        raise typer.Exit(130) from error


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Within, SIGTERM is Ctrl-C: left to its default it would skip every clean-up, a study's running children first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hand_on(_signal: int, _frame: FrameType | None) -> None:
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell starts its background jobs so
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGINT)  # not raised here: asyncio's own handler cancels its tasks in order

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
