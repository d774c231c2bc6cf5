"""How every command of the offline half speaks on stderr when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from models.errors import ModelsError


def stderr_console() -> Console:
    """A console that prints lines as they are: no wrapping, no markup in paths, no colours in numbers."""
    return Console(stderr=True, soft_wrap=True, markup=False, highlight=False)


@contextmanager
def exit_codes(what_is_kept: str, console: Console | None = None) -> Iterator[None]:
    """An error becomes one line and exit code 1, Ctrl-C one line that says `what_is_kept` and 130."""
    console = console or stderr_console()
    try:
        yield
    except ModelsError as error:
        console.print(f"error: {error}", style="red")
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        console.print(f"interrupted: {what_is_kept}")
        raise typer.Exit(130) from error
