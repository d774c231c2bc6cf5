"""The best k items of the whole catalogue for each query, exactly.

`score(item) = max over queries of <query, item>`. Blocks of the table are scanned in float32; whatever could belong to
the best k, given float32's rounding, is scored again in float64. So the answer depends on neither the batch, the block
nor the order in which a BLAS adds, and equal items get equal scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.inference.topk.contract import Ranked, check_search, check_tables
from service.inference.topk.exact import exact_scores, largest_norm, rounding

# Scores held at once (float32), and the bounds of a block: small enough that the first threshold comes early and the
# block stays in cache, large enough that the call into BLAS dominates.
_SCORES_AT_ONCE = 1 << 21
_BLOCK_ROWS = (512, 16_384)
_RESCORE_ROWS = 65_536


class ExactTopK:
    """`TopK` with NumPy over a (memory-mapped) table.

    Args:
        items: float32 (n_items + 1, dim), finite; row 0 is padding. Read in place, never copied.
        available: bool (n_items + 1,). Kept, not copied: a change shows in the next search.
    """

    def __init__(self, items: NDArray[np.float32], available: NDArray[np.bool_]) -> None:
        check_tables(items, available)
        self.fallbacks = 0
        self._items = items
        self._available = available
        self._longest = largest_norm(items)

    def search(self, queries: NDArray[np.float32], k: int, excluded: Sequence[NDArray[np.int64]]) -> list[Ranked]:
        check_search(queries, k, excluded)
        batch, n_queries, dim = queries.shape
        rows = [_Best(queries[row].astype(np.float64), k) for row in range(batch)]
        slack = rounding(queries, self._longest)
        flat = np.ascontiguousarray(queries.reshape(batch * n_queries, dim))
        smallest, largest = _BLOCK_ROWS
        step = min(max(_SCORES_AT_ONCE // max(1, batch * n_queries), smallest), largest)
        for start in range(1, len(self._items), step):
            block = self._items[start : start + step]
            with np.errstate(invalid="ignore"):  # a row with NaN is answered with no items, in silence
                scores = flat @ block.T
            if n_queries > 1:
                scores = scores.reshape(batch, n_queries, len(block)).max(axis=1)
            scores[:, ~self._available[start : start + step]] = -np.inf
            for row, indices in enumerate(excluded):
                scores[row, indices[(indices >= start) & (indices < start + len(block))] - start] = -np.inf
            # Nothing below a row's k-th best so far, rounding considered, can still enter; ties lose to lower indices.
            floor = (np.array([best.threshold for best in rows]) - slack).astype(np.float32)
            hits = scores > floor[:, None]
            for row in np.flatnonzero(hits.any(axis=1)).tolist():
                columns = _promising(scores[row], np.flatnonzero(hits[row]), k, slack[row])
                rows[row].add(self._items, start + columns)
        return [best.ranked() for best in rows]


class _Best:
    """The best k items of one row so far, exactly scored."""

    def __init__(self, queries: NDArray[np.float64], k: int) -> None:
        self._queries = queries
        self._k = k
        self._indices = np.empty(0, np.int64)
        self._scores = np.empty(0, np.float64)

    @property
    def threshold(self) -> float:
        return float(self._scores[-1]) if len(self._scores) == self._k else -np.inf

    def add(self, items: NDArray[np.float32], indices: NDArray[np.int64]) -> None:
        for start in range(0, len(indices), _RESCORE_ROWS):
            some = indices[start : start + _RESCORE_ROWS]
            exact = exact_scores(self._queries, items[some])
            better = exact > self.threshold  # a tie with the k-th loses: its index is higher
            merged = np.concatenate([self._indices, some[better]])
            scores = np.concatenate([self._scores, exact[better]])
            best = np.lexsort((merged, -scores))[: self._k]
            self._indices, self._scores = merged[best], scores[best]

    def ranked(self) -> Ranked:
        return self._indices, self._scores.astype(np.float32)


def _promising(scores: NDArray[np.float32], columns: NDArray[np.intp], k: int, slack: float) -> NDArray[np.intp]:
    """The columns that can be among this block's own best k: cheaper than scoring every hit again."""
    if len(columns) <= 4 * k:
        return columns
    values = scores[columns]
    kth = float(np.partition(values, len(values) - k)[len(values) - k])
    return columns[values >= kth - slack]
