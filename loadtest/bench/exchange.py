"""What the lean generator is told and what it tells: plain files, so that it can be a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from loadtest.errors import InputError

TIERS = ("model", "cache", "popular", "static")
NO_TIER = -1  # a refusal, an error, or a server that has no tiers
OTHER_TIER = -2
# In place of a status, where no whole reply came.
CLOSED, TIMED_OUT, NOT_SENT, ABORTED = 0, -1, -2, -3


@dataclass(frozen=True)
class Job:
    """One run of the generator.

    Args:
        phases: open loop: (arrivals per second, seconds), one after the other; closed loop: one, its rate unused.
        connections: open loop: the most requests in flight; closed loop: how many are always in flight.
        start_at: `time.monotonic()` of the first arrival; several generators then start together.
        abort_share: share of the requests whose connection is cut within `abort_within_s` of sending.
    """

    host: str
    port: int
    mode: Literal["open", "closed"]
    phases: Sequence[tuple[float, float]]
    connections: int
    requests: str  # file of `save_requests`
    out: str  # file of the result
    seed: int = 7
    timeout_s: float = 5.0
    start_at: float = 0.0
    cores: Sequence[int] = field(default_factory=tuple)
    abort_share: float = 0.0
    abort_within_s: float = 0.005
    max_requests: int = 0  # closed loop: ends when so many were answered; 0 = by time alone

    def __post_init__(self) -> None:
        if not self.phases or any(rate < 0 or seconds <= 0 for rate, seconds in self.phases):
            raise InputError(f"generator: phases are {self.phases}; expected (rate >= 0, seconds > 0) pairs")
        if self.connections < 1 or not 0 <= self.abort_share <= 1:
            raise InputError(f"generator: {self.connections} connections and an abort share of {self.abort_share}")

    def to_json(self) -> bytes:
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> Job:
        return cls(**orjson.loads(text))

    def schedule(self) -> NDArray[np.float64]:
        """Planned seconds of sending, ascending: a Poisson process in every phase, fixed before the first is sent."""
        rng = np.random.default_rng(self.seed)
        parts, begin = [], 0.0
        for rate, seconds in self.phases:
            parts.append(begin + np.sort(rng.uniform(0.0, seconds, int(rng.poisson(rate * seconds)))))
            begin += seconds
        return np.concatenate(parts)


@dataclass(frozen=True)
class Outcome:
    """What became of each request, aligned; times in seconds since the start.

    Args:
        planned: when it was due. Closed loop: when it was sent.
        sent: when its bytes left; NaN where they never did.
        done: when its reply was whole, or the failure noticed.
        status: HTTP status, or one of CLOSED, TIMED_OUT, NOT_SENT, ABORTED.
        tier: position in TIERS, or NO_TIER.
    """

    planned: NDArray[np.float64]
    sent: NDArray[np.float64]
    done: NDArray[np.float64]
    status: NDArray[np.int16]
    tier: NDArray[np.int8]
    foreign: int = 0  # replies of status 200 without the content that their request must get
    cpu_s: float = 0.0
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        np.savez(path, **asdict(self))

    @classmethod
    def load(cls, path: Path) -> Outcome:
        with np.load(path) as arrays:
            told: dict[str, Any] = {name: arrays[name] for name in cls.__dataclass_fields__}
        for name, kind in (("foreign", int), ("cpu_s", float), ("seconds", float)):
            told[name] = kind(told[name])
        return cls(**told)

    @classmethod
    def together(cls, parts: Sequence[Outcome]) -> Outcome:
        """Several generators' outcomes as one, in the order of planning."""
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("planned", "sent", "done", "status", "tier")
        }
        order = np.argsort(columns["planned"], kind="stable")
        return cls(
            **{name: column[order] for name, column in columns.items()},
            foreign=sum(part.foreign for part in parts),
            cpu_s=sum(part.cpu_s for part in parts),
            seconds=max(part.seconds for part in parts),
        )


def http_request(method: str, path: str, body: bytes = b"", *, budget_ms: float | None = None) -> bytes:
    """A whole HTTP/1.1 request with keep-alive, ready to be sent again and again."""
    head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    if budget_ms is not None:
        head += f"X-Request-Timeout-Ms: {budget_ms:.0f}\r\n"
    return head.encode() + b"\r\n" + body


def save_requests(path: Path, requests: Sequence[bytes], expected: Sequence[bytes] | None = None) -> None:
    """Writes whole HTTP requests; `expected` is, for each, what a reply of status 200 must contain (empty: nothing)."""
    expected = expected if expected is not None else [b""] * len(requests)
    np.savez(
        path,
        requests=np.frombuffer(b"".join(requests), np.uint8),
        request_ends=np.cumsum([len(each) for each in requests]),
        expected=np.frombuffer(b"".join(expected), np.uint8),
        expected_ends=np.cumsum([len(each) for each in expected]),
    )


def load_requests(path: Path) -> tuple[list[bytes], list[bytes]]:
    with np.load(path) as arrays:
        columns = {name: arrays[name] for name in ("requests", "request_ends", "expected", "expected_ends")}
    return (
        _split(columns["requests"].tobytes(), columns["request_ends"].tolist()),
        _split(columns["expected"].tobytes(), columns["expected_ends"].tolist()),
    )


def _split(content: bytes, ends: list[int]) -> list[bytes]:
    return [content[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
