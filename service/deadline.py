"""How long an answer may take: one object that every stage of a request asks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import BadHeader

Clock = Callable[[], float]

HEADER = "X-Request-Timeout-Ms"
# A shorter budget cannot hold a state read and a model run; it counts as spent from the start.
FLOOR_MS = 5
# What remains to do after the last stage: rules, encoding the reply, handing it to the socket.
REPLY_S = 0.001


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in monotonic time. `granted_ms` is what the caller, the scenario or a limit allowed."""

    granted_ms: float
    started_at: float
    ends_at: float
    clock: Clock = time.monotonic

    @classmethod
    def start(cls, granted_ms: float, started_at: float, clock: Clock = time.monotonic) -> Deadline:
        """The deadline of a request that arrived at `started_at` (seconds of `clock`)."""
        usable_ms = granted_ms if granted_ms >= FLOOR_MS else 0.0
        return cls(granted_ms, started_at, started_at + usable_ms / 1000, clock)

    @property
    def left_s(self) -> float:
        """Seconds a stage may still use; 0 when the budget is spent."""
        return max(0.0, self.ends_at - REPLY_S - self.clock())

    @property
    def left_ms(self) -> float:
        """Milliseconds until the deadline itself, for the reply."""
        return max(0.0, (self.ends_at - self.clock()) * 1000)

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the request arrived."""
        return (self.clock() - self.started_at) * 1000

    @property
    def spent(self) -> bool:
        return self.left_s <= 0


def granted_ms(header: str | None, *, default_ms: int, max_ms: int) -> int:
    """The budget in whole milliseconds: the header's where there is one, never above `max_ms`.

    Raises:
        BadHeader: the header is not an integer of at least 1.
    """
    if header is None:
        return min(default_ms, max_ms)
    if not re.fullmatch(r"0*[1-9][0-9]*", header, re.ASCII):
        raise BadHeader(f"{HEADER} must be a whole number of milliseconds, at least 1")
    digits = header.lstrip("0")
    # More digits than the limit has cannot be smaller; int() refuses thousands of them.
    return max_ms if len(digits) > len(str(max_ms)) else min(int(digits), max_ms)
