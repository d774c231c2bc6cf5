"""The real command in a process of its own, for tests that look at it from outside."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import orjson
import psutil

Value = TypeVar("Value")
LIMIT_S = 30.0  # for anything a process does; only a hang takes that long


def until(look: Callable[[], Value | None]) -> Value:
    """The first thing that `look` finds."""
    ends_at = time.monotonic() + LIMIT_S
    while time.monotonic() < ends_at:
        found = look()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"nothing found within {LIMIT_S} s")


class Command:
    """`python -m service serve` with output in files."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        folder.mkdir(exist_ok=True)
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service", "serve", "--state-dir", str(folder / "state"), *arguments],
                stdout=out,
                stderr=err,
                cwd=folder,
                env={**os.environ, "AFTERGLOW_DRAIN_LINGER_S": "0.5", **environment},
            )

    def until_ready(self) -> str:
        """Base address, once the line with the example request has been printed."""
        line = until(lambda: self._printed(r"curl -s (http://[^/]+)/v1/recommend"))
        return line[1]

    def example(self) -> tuple[str, dict[str, Any]]:
        """Address and body of the request that the command suggests."""
        words = shlex.split(until(lambda: self._printed(r"curl .*"))[0])
        return words[2], orjson.loads(words[words.index("-d") + 1])

    def wait(self) -> int:
        return self.process.wait(LIMIT_S)

    def redis(self) -> psutil.Process:
        return until(lambda: next((child for child in self._children() if "redis-server" in child.name()), None))

    def errors(self) -> str:
        return self.err.read_text()

    def _children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def _printed(self, pattern: str) -> re.Match[str] | None:
        assert self.process.poll() is None, self.errors()
        return re.search(pattern, self.out.read_text())


Serve = Callable[..., Command]  # the fixture `serve`
