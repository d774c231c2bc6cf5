"""Notes that are counted later come out as if they had been counted at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from service.metrics import Metrics
from service.tallies import CounterTally, HistogramTally

# Below, on, between and above the bounds 1 and 2, and twice in one bucket.
VALUES = (0.5, 1.0, 1.5, 1.75, 2.0, 3.0)


def samples(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    return {
        (sample.name.removeprefix("x_"), str(sorted(sample.labels.items()))): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


@pytest.mark.parametrize("labels", [(), ("model",)], ids=["alone", "with a label"])
def test_folded_observations_are_those_observed_at_once(labels: tuple[str, ...]) -> None:
    noted, at_once = CollectorRegistry(), CollectorRegistry()
    names = ["stage"] if labels else []
    tally = HistogramTally(Histogram("x_s", "Seconds", names, buckets=(1, 2), registry=noted))
    histogram = Histogram("x_s", "Seconds", names, buckets=(1, 2), registry=at_once)
    for value in VALUES:
        tally.observe(value, *labels)
        (histogram.labels(*labels) if labels else histogram).observe(value)

    tally.fold()
    tally.fold()  # once is enough

    assert samples(noted) == samples(at_once)


def test_folded_increments_are_those_made_at_once() -> None:
    noted, at_once = CollectorRegistry(), CollectorRegistry()
    tally = CounterTally(Counter("x", "Things", ["kind"], registry=noted))
    counter = Counter("x", "Things", ["kind"], registry=at_once)
    for kind in ("a", "b", "a"):
        tally.inc(kind)
        counter.labels(kind).inc()

    tally.fold()

    assert samples(noted) == samples(at_once)


def test_whoever_looks_sees_what_was_only_noted_so_far() -> None:
    metrics = Metrics()
    metrics.queue_wait.observe(0.25)
    metrics.n_inflight += 3

    assert metrics.registry.get_sample_value("afterglow_queue_wait_seconds_sum") == 0.25
    assert b"afterglow_inflight 3.0" in metrics.render()


def test_no_note_is_lost_or_counted_twice_while_threads_note_and_look() -> None:
    metrics = Metrics()
    n_each = 20_000

    def note() -> None:
        for _ in range(n_each):
            metrics.queue_wait.observe(1.0)

    def in_threads(*work: Callable[[], None]) -> None:
        threads = [threading.Thread(target=each) for each in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    in_threads(note, note, *[lambda: [metrics.fold() for _ in range(200)]] * 2)

    assert metrics.registry.get_sample_value("afterglow_queue_wait_seconds_count") == 2 * n_each
