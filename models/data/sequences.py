"""A ragged array of item indices: one chronological list per row, stored as two flat arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Sequences:
    """One chronological list of item indices per row; row r is `items[offsets[r]:offsets[r + 1]]`."""

    items: NDArray[np.int64]  # (total,) item indices, 1..n_items
    offsets: NDArray[np.int64]  # (rows + 1,), first 0, never falling

    @classmethod
    def from_lists(cls, rows: Iterable[Iterable[int]]) -> Sequences:
        """The same rows as a ragged array; an empty list is an empty row."""
        arrays = [np.fromiter(row, dtype=np.int64) for row in rows]
        return cls.from_lengths(
            np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int64),
            np.fromiter((len(array) for array in arrays), dtype=np.int64, count=len(arrays)),
        )

    @classmethod
    def from_lengths(cls, items: NDArray[np.int64], lengths: NDArray[np.int64]) -> Sequences:
        """Rows of the given lengths cut from `items` in order; the lengths must sum to `len(items)`."""
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        assert offsets[-1] == len(items)
        return cls(items=items, offsets=offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.int64]:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} sequences")
        row %= len(self)
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        for row in range(len(self)):
            yield self[row]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 (rows,): items in each row."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> NDArray[np.int64]:
        """int64 (total,): the row each entry of `items` belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def prefixes(self, lengths: NDArray[np.int64]) -> Sequences:
        """The first `lengths[r]` items of every row r; a row shorter than that is kept whole."""
        rank = np.arange(len(self.items)) - self.offsets[self.rows]
        return self.where(rank < np.asarray(lengths)[self.rows])

    def where(self, keep: NDArray[np.bool_]) -> Sequences:
        """The same rows with only the entries of `items` where `keep` (total,) is true."""
        return Sequences.from_lengths(self.items[keep], np.bincount(self.rows[keep], minlength=len(self)))

    def take(self, rows: NDArray[np.int64]) -> Sequences:
        """The given rows, in the given order, as a new ragged array."""
        lengths = self.lengths[rows]
        taken = Sequences.from_lengths(np.empty(int(lengths.sum()), dtype=np.int64), lengths)
        rank = np.arange(len(taken.items)) - taken.offsets[taken.rows]
        taken.items[:] = self.items[self.offsets[rows][taken.rows] + rank]
        return taken

    def last(self, back: int = 1) -> NDArray[Any]:
        """int64 (rows,): the `back`-th newest item of every row; each row must have that many."""
        assert len(self) == 0 or int(self.lengths.min()) >= back
        return self.items[self.offsets[1:] - back]
