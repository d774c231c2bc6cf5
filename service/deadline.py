"""How long an answer may take: one object that every stage of a request asks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import BadHeader

Clock = Callable[[], float]

HEADER = "X-Request-Timeout-Ms"
GRPC_HEADER = "grpc-timeout"
ENVOY_HEADER = "x-envoy-expected-rq-timeout-ms"
_GRPC_UNIT_MS = {"H": 3_600_000.0, "M": 60_000.0, "S": 1_000.0, "m": 1.0, "u": 0.001, "n": 0.000_001}
# A shorter budget cannot hold a state read and a model run; it counts as spent from the start.
FLOOR_MS = 5
# What remains to do after the last stage: rules, encoding the reply, handing it to the socket.
REPLY_S = 0.001


@dataclass(slots=True)  # not frozen, as other records made for each request: that costs three times as much to make
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


def granted_ms(
    own: str | None, grpc: str | None = None, envoy: str | None = None, *, default_ms: int, max_ms: int
) -> float:
    """The budget in milliseconds: the smallest of the headers that are given, never above `max_ms`.

    Args:
        own, grpc, envoy: values of `HEADER`, `GRPC_HEADER` and `ENVOY_HEADER`.
        default_ms: where none is given.

    Raises:
        BadHeader: a header is not as its definition says.
    """
    if own is grpc is envoy is None:
        return min(default_ms, max_ms)
    given: list[float] = []
    if own is not None:
        given.append(_whole_ms(HEADER, own, max_ms))
    if grpc is not None:
        given.append(_grpc_ms(grpc))
    if envoy is not None and envoy.strip("0"):  # 0 is Envoy's way to say that there is no limit
        given.append(_whole_ms(ENVOY_HEADER, envoy, max_ms))
    return min(max_ms, *given) if given else min(default_ms, max_ms)


def _whole_ms(header: str, value: str, max_ms: int) -> int:
    if not re.fullmatch(r"0*[1-9][0-9]*", value, re.ASCII):
        raise BadHeader(f"{header} must be a whole number of milliseconds, at least 1")
    digits = value.lstrip("0")
    # More digits than the limit has cannot be smaller; int() refuses thousands of them.
    return max_ms if len(digits) > len(str(max_ms)) else int(digits)


def _grpc_ms(value: str) -> float:
    """gRPC over HTTP/2: at most eight digits and a unit."""
    if not re.fullmatch(r"[0-9]{1,8}[HMSmun]", value, re.ASCII):
        raise BadHeader(f"{GRPC_HEADER} must be one to eight digits and one of H M S m u n")
    return int(value[:-1]) * _GRPC_UNIT_MS[value[-1]]
