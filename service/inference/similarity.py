"""Items like an item: the cosine of their rows in the item table.

Not the model's own score: an inner product would put the items with the longest vectors, which are the popular ones,
beside everything. The table is scanned in place, in blocks; only one float per item is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.features.explanation import unit_rows

_BLOCK_ROWS = 65_536


class ItemSimilarity:
    """Nearest items by cosine, exactly up to float32.

    Args:
        items: float32 (n_items + 1, dim), row 0 is padding; read in place.
        available: bool (n_items + 1,); a change shows in the next search.
    """

    def __init__(self, items: NDArray[np.float32], available: NDArray[np.bool_]) -> None:
        self._items = items
        self._available = available
        norms = np.empty(len(items), np.float32)
        for start in range(0, len(items), _BLOCK_ROWS):
            norms[start : start + _BLOCK_ROWS] = np.linalg.norm(items[start : start + _BLOCK_ROWS], axis=1)
        # An item without direction is like nothing: its cosine is 0.
        self._inverse_norms = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)

    def search(
        self, seeds: Sequence[Sequence[int]], k: int, excluded: Sequence[NDArray[np.int64]]
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Per row, at most k item indices and cosines, best first; with several seeds the nearest one counts.

        Ties go to the lowest index. Row 0, unavailable items and the row's `excluded` indices never appear.
        """
        return [
            self._nearest(self._items[list(row)] * self._inverse_norms[list(row), None], k, hidden)
            for row, hidden in zip(seeds, excluded, strict=True)
        ]

    def near(self, vectors: NDArray[np.float32], k: int) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Of each vector (n, dim), as `search`, whatever is excluded."""
        nothing = np.empty(0, np.int64)
        return [self._nearest(direction[None], k, nothing) for direction in unit_rows(vectors)]

    def _nearest(
        self, directions: NDArray[np.float32], k: int, excluded: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Of directions (seeds, dim), the nearest of which counts."""
        indices, cosines = np.empty(0, np.int64), np.empty(0, np.float32)
        for start in range(1, len(self._items), _BLOCK_ROWS):
            block = slice(start, min(start + _BLOCK_ROWS, len(self._items)))
            scores = (self._items[block] @ directions.T).max(axis=1) * self._inverse_norms[block]
            allowed = self._available[block].copy()
            allowed[excluded[(excluded >= block.start) & (excluded < block.stop)] - start] = False
            columns = np.flatnonzero(allowed)
            if len(columns) > k:
                kth = np.partition(scores[columns], len(columns) - k)[len(columns) - k]
                columns = columns[scores[columns] >= kth]  # ties stay until the order below decides
            indices = np.concatenate([indices, columns + start])
            cosines = np.concatenate([cosines, scores[columns]])
            best = np.lexsort((indices, -cosines))[:k]
            indices, cosines = indices[best], cosines[best]
        return indices, cosines
