"""How long a model takes: what admission and the size of batches are decided by."""

from __future__ import annotations

from collections import deque

# Newest runs that count, per bucket, and which of them is believed: a slow one, but not the slowest.
_WINDOW = 32
_QUANTILE = 0.75
# How much longer than a run of one row a run of more may take, whatever the time it was given: a large table is read
# once for all rows, and runs of one row would answer a fraction of what the engine could.
_LITTLE_LONGER = 1.25


class Pace:
    """Durations of one model's runs by number of rows, in buckets of powers of two (1, 2, 3-4, 5-8, ...).

    A moving quantile of the newest runs: one outlier, a page fault or another process on the core, changes nothing, and
    a lasting change shows within a few runs.
    """

    def __init__(self, max_rows: int) -> None:
        n_buckets = _bucket(max_rows) + 1
        self._newest: list[deque[float]] = [deque(maxlen=_WINDOW) for _ in range(n_buckets)]
        self._believed: list[float | None] = [None] * n_buckets
        self._max_rows = max_rows

    def note(self, n_rows: int, took_s: float) -> None:
        """Counts a run."""
        bucket = _bucket(n_rows)
        newest = self._newest[bucket]
        newest.append(took_s)
        self._believed[bucket] = sorted(newest)[int(_QUANTILE * (len(newest) - 1))]

    def of(self, n_rows: int) -> float:
        """Seconds a run of so many rows is expected to take; 0 where nothing is known yet."""
        bucket = _bucket(n_rows)
        for larger in range(bucket, len(self._believed)):  # a larger run takes longer
            if (seconds := self._believed[larger]) is not None:
                return seconds
        for smaller in range(bucket - 1, -1, -1):  # and in proportion at most
            if (seconds := self._believed[smaller]) is not None:
                return seconds * (1 << (bucket - smaller))
        return 0.0

    def rows_within(self, seconds: float) -> int:
        """Most rows whose run is expected to end within the time, or in little more than a run of one row takes."""
        rows, seconds = self._max_rows, max(seconds, _LITTLE_LONGER * self.of(1))
        while rows > 1 and self.of(rows) > seconds:
            rows = 1 << (_bucket(rows) - 1)
        return rows


def _bucket(n_rows: int) -> int:
    return (n_rows - 1).bit_length()
