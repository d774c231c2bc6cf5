"""How long a model takes: what admission and the size of batches are decided by."""

from __future__ import annotations

import math
from collections import deque

# Newest runs that count, per bucket, and which of them is believed: a slow one, but not the slowest.
_WINDOW = 32
_QUANTILE = 0.75
# How much longer than a run of one row a run of more may take, whatever its share of a budget: a large table is read
# once for all rows, and runs of one row would answer a fraction of what the engine could.
_LONGER = 2.5


class Pace:
    """Durations of one model's runs by number of rows, in buckets of powers of two (1, 2, 3-4, 5-8, ...).

    A moving quantile of the newest runs: one outlier, a page fault or another process on the core, changes nothing, and
    a lasting change shows within a few runs.
    """

    def __init__(self, max_rows: int) -> None:
        n_buckets = _bucket(max_rows) + 1
        self._newest: list[deque[float]] = [deque(maxlen=_WINDOW) for _ in range(n_buckets)]
        self._expected = [0.0] * n_buckets
        self._max_rows = max_rows

    def note(self, n_rows: int, took_s: float) -> None:
        """Counts a run."""
        self._newest[_bucket(n_rows)].append(took_s)
        believed = [_believed(newest) for newest in self._newest]
        expected, from_smaller = [], math.inf
        for bucket, own in enumerate(believed):
            # In proportion to a smaller run at most, whatever is known: a size that was slow once, and is not run any
            # more because it was, must not stay slow for ever.
            from_smaller = min(2 * from_smaller, math.inf if own is None else own)
            if from_smaller < math.inf:
                expected.append(from_smaller)
            else:  # a larger run takes longer
                expected.append(next((seconds for seconds in believed[bucket:] if seconds is not None), 0.0))
        self._expected = expected

    def of(self, n_rows: int) -> float:
        """Seconds a run of so many rows is expected to take; 0 where nothing is known yet."""
        return self._expected[_bucket(n_rows)]

    def rows_within(self, seconds: float) -> int:
        """Most rows whose run is expected to end within the time, or in 2.5 times what a run of one row takes."""
        rows, seconds = self._max_rows, max(seconds, _LONGER * self.of(1))
        while rows > 1 and self.of(rows) > seconds:
            rows = 1 << (_bucket(rows) - 1)
        return rows


def _believed(newest: deque[float]) -> float | None:
    return sorted(newest)[int(_QUANTILE * (len(newest) - 1))] if newest else None


def _bucket(n_rows: int) -> int:
    return (n_rows - 1).bit_length()
