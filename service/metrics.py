"""What the service counts. Durations are histograms in seconds; no label ever holds a user, session or item."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from service.tallies import CounterTally, HistogramTally

if TYPE_CHECKING:
    from service.ranking import RankAnswer
    from service.recommender import Answer

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
# So many notes at most wait for somebody who looks: a fold of more would hold the event loop up.
_FOLD_AT = 256


class Metrics:
    """All metrics of one process, in a registry of their own.

    Args:
        shared: where several processes keep their numbers in files, prometheus_client's multiprocess mode (which its
            own environment variable must have switched on before it was imported). A page then adds up all of them,
            whichever process it is asked of; what only makes sense per process (memory, garbage collector) is left out.
    """

    def __init__(self, shared: Path | None = None) -> None:
        self._shared = shared
        self._folding = threading.Lock()
        # Other processes see only what was folded.
        self._n_unfolded, self._fold_at = 0, _FOLD_AT if shared is None else 1
        self.n_inflight = 0  # requests being answered; the event loop's own number
        self.registry = registry = CollectorRegistry()
        registry.register(_FoldFirst(self))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        def counter(name: str, says: str, *labels: str) -> Counter:
            return Counter(f"afterglow_{name}", says, labels, registry=registry)

        def histogram(name: str, says: str, *labels: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return Histogram(f"afterglow_{name}", says, labels, buckets=buckets, registry=registry)

        def gauge(name: str, says: str, *labels: str, together: Literal["livesum", "livemax"] = "livemax") -> Gauge:
            return Gauge(f"afterglow_{name}", says, labels, registry=registry, multiprocess_mode=together)

        # What every request counts is noted, and counted when somebody looks.
        self.http = HistogramTally(
            histogram(
                "http_request_duration_seconds",
                "From the first byte in to the last byte out",
                "route",
                "method",
                "code",
            )
        )
        self._inflight = gauge("inflight", "Requests being answered", together="livesum")
        self.stage = HistogramTally(histogram("stage_duration_seconds", "Time in one stage of an answer", "stage"))
        self.served = CounterTally(counter("served", "Answers", "scenario", "tier", "model", "version"))
        self.degraded = CounterTally(counter("degraded", "Answers below the tier that was due, by reason", "reason"))
        self.deadline_exceeded = counter("deadline_exceeded", "Budgets that ended in a stage", "stage")
        self.shed = counter("shed", "Requests that the engine did not take", "reason")
        self.queue_wait = HistogramTally(
            histogram("queue_wait_seconds", "From asking the engine to the start of the run")
        )
        self.engine_batch = HistogramTally(
            histogram("engine_batch_rows", "Requests scored in one run", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256))
        )
        self.redis_errors = counter("redis_errors", "Calls that the state store did not answer in time", "kind")
        self.events = counter("events", "Events by result", "result")
        self.batch_rows = counter("batch_rows", "Sub-requests of batch calls by status", "result")
        self.empty = counter("empty_responses", "Answers without a single item", "scenario")
        self.model_info = gauge("model_info", "1 for each loaded model", "name", "version", "sha256")
        self.top_k_fallbacks = counter(
            "top_k_fallbacks",
            "Answers that a top-k backend could not certify and left to a slower one",
            "name",
            "version",
        )
        self.model_load = gauge("model_load_seconds", "Opening, loading and golden check", "name", "version")

    def answered(self, answer: Answer) -> None:
        """Counts one answer of recommend or similar."""
        scenario, model = answer.scenario.name, answer.model
        self.served.inc(scenario, answer.picked.tier, model.name, model.version)
        for stage, duration_ms in answer.stage_ms.items():
            self.stage.observe(duration_ms / 1000, stage)
        if answer.degraded:
            for reason in answer.reasons:
                self.degraded.inc(reason)
        if not len(answer.picked.items):
            self.empty.labels(scenario).inc()
        self.fold_soon()

    def ranked(self, answer: RankAnswer) -> None:
        """Counts one answer of rank."""
        ranker = answer.choice.ranker
        self.served.inc(answer.scenario.name, answer.tier, ranker.name, ranker.version)
        for stage, duration_ms in answer.stage_ms.items():
            self.stage.observe(duration_ms / 1000, stage)
        if answer.degraded:
            for reason in answer.reasons:
                self.degraded.inc(reason)
        self.fold_soon()

    def fold(self) -> None:
        """Counts what was only noted so far."""
        with self._folding:
            for tally in (self.http, self.stage, self.served, self.degraded, self.queue_wait, self.engine_batch):
                tally.fold()
            self._inflight.set(self.n_inflight)
            self._n_unfolded = 0

    def fold_soon(self) -> None:
        """For the event loop, after each answer, request and run: folds at the end of the turn, if it is time to."""
        self._n_unfolded += 1
        if self._n_unfolded == self._fold_at:
            asyncio.get_running_loop().call_soon(self.fold)

    def render(self) -> bytes:
        """The Prometheus text format."""
        if self._shared is None:
            return generate_latest(self.registry)
        self.fold()
        together = CollectorRegistry()
        MultiProcessCollector(together, path=str(self._shared))  # type: ignore[no-untyped-call]
        return generate_latest(together)


class _FoldFirst:
    """The first collector of a registry, so that those after it have their numbers."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Sequence[Metric]:
        self._metrics.fold()
        return ()
