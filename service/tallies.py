"""What happened, noted at once and counted later, many at a time: a third of what counting in prometheus_client costs.

Whoever looks at the metrics folds first, and the process itself does now and then (`Metrics.fold_soon`). Notes may come
from any thread.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counts
from collections import defaultdict
from typing import TypeVar

from prometheus_client import Counter, Histogram

Labels = tuple[str, ...]
Note = TypeVar("Note")


class HistogramTally:
    """Observations of one histogram."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._notes: list[tuple[Labels, float]] = []

    def observe(self, value: float, *labels: str) -> None:
        self._notes.append((labels, value))

    def fold(self) -> None:
        """Counts what was noted."""
        values: defaultdict[Labels, list[float]] = defaultdict(list)
        for labels, value in _taken(self._notes):
            values[labels].append(value)
        for labels, its_values in values.items():
            # `observe` for many at once; prometheus_client gives out neither its sum nor its buckets.
            child = self._histogram.labels(*labels) if labels else self._histogram
            bounds = child._upper_bounds
            for bucket, n in Counts([bisect_left(bounds, value) for value in its_values]).items():
                child._buckets[bucket].inc(n)
            child._sum.inc(sum(its_values))


class CounterTally:
    """Increments by one of one counter."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._notes: list[Labels] = []

    def inc(self, *labels: str) -> None:
        self._notes.append(labels)

    def fold(self) -> None:
        """Counts what was noted."""
        for labels, n in Counts(_taken(self._notes)).items():
            (self._counter.labels(*labels) if labels else self._counter).inc(n)


def _taken(notes: list[Note]) -> list[Note]:
    """The notes so far, which are then gone. Each of the two steps is one of the interpreter's, which nobody enters."""
    taken = notes[:]
    del notes[: len(taken)]
    return taken
