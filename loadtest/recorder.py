"""What happened to every request of a run, in columns, and the figures drawn from it."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from loadtest.client import NoReply, Response

PERCENTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)
# Where the latency CDF of a result is sampled: dense in the tail, where the promises are.
CDF_LEVELS = np.unique(np.concatenate([np.linspace(0, 99, 100), np.linspace(99, 99.9, 19), np.linspace(99.9, 100, 11)]))


@dataclass(frozen=True, slots=True)
class Reply:
    """The parts of one reply that a load test looks at. `status` 0 means no reply, and `fault` says why."""

    status: int
    tier: str = ""
    degraded: bool = False
    durability: str = ""
    fault: str = ""
    timing_ms: Mapping[str, float] | None = None

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300 and not self.fault


def read_reply(kind: str, status: int, body: bytes) -> Reply:
    """The reply to a `recommend` or `events` call; a 2xx without the promised fields has the fault `bad_body`.

    An events reply that rejects an event has the fault `rejected`."""
    if not 200 <= status < 300:
        return Reply(status, fault=f"http_{status}")
    try:
        document = orjson.loads(body)
        if kind == "events":
            # No durability: nothing was written, because every event was a duplicate.
            fault = "rejected" if document["rejected"] else ""
            return Reply(status, durability=document["durability"] or "nothing_new", fault=fault)
        served = document["served"]
        return Reply(status, str(served["tier"]), bool(served["degraded"]), timing_ms=document.get("timing_ms"))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return Reply(status, fault="bad_body")


def reply_of(kind: str, outcome: Response | NoReply) -> Reply:
    """The reply in a client's outcome, a failure to get one included."""
    if isinstance(outcome, NoReply):
        return Reply(0, fault=outcome.reason)
    return read_reply(kind, outcome.status, outcome.body)


class Recorder:
    """Grows by one row per request; times are seconds since the start of the run.

    Columns are typed arrays, so a run of a million requests neither fills memory nor wakes the garbage collector,
    whose pauses would show up as latency of the service.
    """

    def __init__(self) -> None:
        self._planned, self._started, self._sent, self._done = array("d"), array("d"), array("d"), array("d")
        self._status = array("H")
        self._kind, self._tier, self._durability, self._fault = (_Names() for _ in range(4))
        self._degraded = array("B")
        self._stages: dict[str, tuple[array[float], array[float]]] = {}

    def __len__(self) -> int:
        return len(self._planned)

    def add(
        self, kind: str, *, planned_s: float, started_s: float, sent_s: float | None, done_s: float, reply: Reply
    ) -> None:
        """One row. `started_s` is when the generator turned to the request, `sent_s` when its first byte left."""
        self._planned.append(planned_s)
        self._started.append(started_s)
        self._sent.append(float("nan") if sent_s is None else sent_s)
        self._done.append(done_s)
        self._status.append(reply.status)
        self._kind.append(kind)
        self._tier.append(reply.tier)
        self._durability.append(reply.durability)
        self._fault.append(reply.fault)
        self._degraded.append(reply.degraded)
        for stage, duration_ms in (reply.timing_ms or {}).items():
            planned, durations = self._stages.setdefault(stage, (array("d"), array("d")))
            planned.append(planned_s)
            durations.append(duration_ms)

    def kinds(self) -> list[str]:
        """Kinds of requests recorded so far, in order of appearance."""
        return self._kind.names()

    def findings(self, from_s: float, until_s: float, budget_ms: float) -> dict[str, Any]:
        """Figures as JSON: of all requests planned in [from_s, until_s), per kind, and per second from 0 on."""
        limits = {"duration_s": until_s - from_s, "budget_ms": budget_ms}
        return {
            "summary": self.view(None, from_s=from_s, until_s=until_s).summary(**limits),
            "by_kind": {
                kind: self.view(kind, from_s=from_s, until_s=until_s).summary(**limits) for kind in self.kinds()
            },
            "per_second": self.view().per_second(int(np.ceil(until_s))),
        }

    def view(self, kind: str | None = None, *, from_s: float = 0.0, until_s: float = float("inf")) -> View:
        """The requests of one kind (None: all) planned within [from_s, until_s)."""
        planned = np.array(self._planned)
        chosen = (planned >= from_s) & (planned < until_s)
        if kind is not None:
            chosen &= self._kind.equals(kind)
        stages = {}
        if kind in (None, "recommend"):
            for stage, (times, durations) in self._stages.items():
                within = np.array(times)
                stages[stage] = np.array(durations)[(within >= from_s) & (within < until_s)]
        return View(
            planned_s=planned[chosen],
            started_s=np.array(self._started)[chosen],
            sent_s=np.array(self._sent)[chosen],
            done_s=np.array(self._done)[chosen],
            status=np.array(self._status)[chosen],
            tier=self._tier.values()[chosen],
            durability=self._durability.values()[chosen],
            fault=self._fault.values()[chosen],
            degraded=np.array(self._degraded, dtype=bool)[chosen],
            stages_ms=stages,
        )


@dataclass(frozen=True)
class View:
    """Columns of some requests, aligned; `stages_ms` has one entry per reply that reported the stage."""

    planned_s: NDArray[np.float64]
    started_s: NDArray[np.float64]
    sent_s: NDArray[np.float64]  # NaN where nothing was sent
    done_s: NDArray[np.float64]
    status: NDArray[np.uint16]
    tier: NDArray[np.str_]
    durability: NDArray[np.str_]
    fault: NDArray[np.str_]
    degraded: NDArray[np.bool_]
    stages_ms: dict[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.planned_s)

    @property
    def ok(self) -> NDArray[np.bool_]:
        passed: NDArray[np.bool_] = self.fault == ""
        return passed

    @property
    def latency_ms(self) -> NDArray[np.float64]:
        """From the planned moment of sending to the last byte: a late generator counts against the run."""
        return (self.done_s - self.planned_s) * 1e3

    @property
    def start_gap_ms(self) -> NDArray[np.float64]:
        """How late the generator itself was: waiting for a free connection comes after this."""
        return (self.started_s - self.planned_s) * 1e3

    def summary(self, *, duration_s: float, budget_ms: float) -> dict[str, Any]:
        """Counts, rates and percentiles of these requests as JSON.

        Goodput counts replies of tier `model`, not degraded, within the budget; everything else is beside it.
        Latency percentiles are those of requests with a 2xx reply: a fast refusal must not flatter them.
        """
        n = len(self)
        good = self.ok & (self.tier == "model") & ~self.degraded & (self.latency_ms <= budget_ms)
        return {
            "requests": n,
            "rate_per_s": _ratio(n, duration_s),
            "ok": int(self.ok.sum()),
            "ok_per_s": _ratio(int(self.ok.sum()), duration_s),
            "error_share": _ratio(int((~self.ok).sum()), n),
            "degraded_share": _ratio(int(self.degraded.sum()), n),
            "goodput_per_s": _ratio(int(good.sum()), duration_s),
            "within_budget_share": _ratio(int((self.ok & (self.latency_ms <= budget_ms)).sum()), n),
            "statuses": counts(self.status.astype(str)),
            "faults": counts(self.fault[~self.ok]),
            "tiers": counts(self.tier[self.tier != ""]),
            "durability": counts(self.durability[self.durability != ""]),
            "latency_ms": percentiles(self.latency_ms[self.ok]),
            "service_latency_ms": percentiles(((self.done_s - self.sent_s) * 1e3)[self.ok]),
            "start_gap_ms": percentiles(self.start_gap_ms),
            "stages_ms": {stage: percentiles(durations) for stage, durations in self.stages_ms.items()},
            "latency_cdf": cdf(self.latency_ms[self.ok]),
        }

    def per_second(self, n_seconds: int) -> list[dict[str, Any]]:
        """One row per second of the schedule: what became of the requests planned in it."""
        rows = []
        seconds = self.planned_s.astype(np.int64)
        for second in range(n_seconds):
            within = seconds == second
            ok = within & self.ok
            rows.append(
                {
                    "second": second,
                    "requests": int(within.sum()),
                    "errors": int((within & ~self.ok).sum()),
                    "degraded": int((within & self.degraded).sum()),
                    "statuses": counts(self.status[within].astype(str)),
                    "tiers": counts(self.tier[within & (self.tier != "")]),
                    "durability": counts(self.durability[within & (self.durability != "")]),
                    "p50_ms": _percentile(self.latency_ms[ok], 50),
                    "p99_ms": _percentile(self.latency_ms[ok], 99),
                }
            )
        return rows


def percentiles(values: NDArray[np.float64]) -> dict[str, float] | None:
    """p50 ... p99.9, mean and max, by nearest rank from above; None of nothing."""
    if not len(values):
        return None
    drawn = np.percentile(values, PERCENTILES, method="higher")
    named = {f"p{level:g}": round(float(value), 4) for level, value in zip(PERCENTILES, drawn, strict=True)}
    return {**named, "mean": round(float(values.mean()), 4), "max": round(float(values.max()), 4)}


def cdf(values: NDArray[np.float64]) -> dict[str, list[float]] | None:
    """Sampled distribution: `ms` at each `percentile`; None of nothing."""
    if not len(values):
        return None
    drawn = np.percentile(values, CDF_LEVELS, method="higher")
    return {"percentile": [round(float(x), 4) for x in CDF_LEVELS], "ms": [round(float(x), 4) for x in drawn]}


def counts(values: NDArray[Any]) -> dict[str, int]:
    """How often each value occurs, most frequent first."""
    names, numbers = np.unique(values, return_counts=True)
    pairs = sorted(zip(names.tolist(), numbers.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
    return {str(name): int(number) for name, number in pairs}


def _percentile(values: NDArray[np.float64], level: float) -> float | None:
    return round(float(np.percentile(values, level, method="higher")), 4) if len(values) else None


def _ratio(part: float, whole: float) -> float:
    return round(part / whole, 6) if whole else 0.0


class _Names:
    """A column of few distinct strings, one byte a row."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._rows = array("B")

    def append(self, name: str) -> None:
        self._rows.append(self._codes.setdefault(name, len(self._codes)))

    def names(self) -> list[str]:
        return list(self._codes)

    def equals(self, name: str) -> NDArray[np.bool_]:
        same: NDArray[np.bool_] = np.array(self._rows) == self._codes.get(name, -1)
        return same

    def values(self) -> NDArray[np.str_]:
        names = np.array(list(self._codes) or [""], dtype=np.str_)
        return np.take(names, np.array(self._rows, dtype=np.intp))
