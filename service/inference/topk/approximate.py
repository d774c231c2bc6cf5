"""Approximate top-k: an inverted file over the item table, and how much of the exact answer it finds.

Items are clustered; a query looks into the clusters nearest to it. What it finds is scored exactly, so scores and order
are right and only members can be missing. How many is measured at start against the exact answer, on queries of the
model itself: recall depends on the vectors, and no figure from another table says anything of this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import SettingsError
from service.inference.topk.contract import Ranked, TopK, check_search, check_tables
from service.inference.topk.exact import exact_scores

RECALL_AT = 20
# Clusters looked into: the fewest of these that reach the recall wanted, and all clusters where none does.
_PROBES = (4, 8, 16, 32, 64, 128, 256)
_WANTED_RECALL = 0.95
# Vectors per cluster from which faiss learns where the clusters lie; its own bound, more are ignored.
_TRAINED_ON = 256
_GROWTH = 4
_NOTHING: Ranked = (np.empty(0, np.int64), np.empty(0, np.float32))


class ApproximateTopK:
    """`TopK` that may miss items: `recall` says what share of the exact best 20 it found.

    Args:
        items: float32 (n_items + 1, dim), finite; row 0 is padding. The index keeps a copy.
        available: bool (n_items + 1,). Kept, not copied: a change shows in the next search.
        exact: gives the answers that recall is measured against, and those of rows that exclude much.
        sample: float32 (n, n_queries, dim), queries as the model makes them; at least one row.

    Raises:
        SettingsError: faiss is not installed.
    """

    def __init__(
        self,
        items: NDArray[np.float32],
        available: NDArray[np.bool_],
        exact: TopK,
        sample: NDArray[np.float32],
        *,
        threads: int = 1,
    ) -> None:
        check_tables(items, available)
        self._faiss = _import_faiss()
        self._items, self._available, self._exact = np.asarray(items), available, exact
        self._threads = threads
        self.fallbacks = 0
        self._faiss.omp_set_num_threads(threads)
        self._index = self._build()
        self.probes, self.recall = self._tune(sample)

    def search(self, queries: NDArray[np.float32], k: int, excluded: Sequence[NDArray[np.int64]]) -> list[Ranked]:
        check_search(queries, k, excluded)
        found: list[Ranked | None] = [None] * len(queries)
        finite = np.isfinite(queries).all(axis=(1, 2))
        for row in np.flatnonzero(~finite).tolist():
            found[row] = _NOTHING
        pending = np.flatnonzero(finite).tolist()
        n_items = len(self._items) - 1
        hidden = n_items - int(np.count_nonzero(self._available[1:]))
        wanted = k + max((len(excluded[row]) for row in pending), default=0) + hidden * k // max(1, n_items - hidden)
        while pending and wanted <= max(1_024, n_items // 8):
            candidates = self._candidates(queries[pending], min(wanted, n_items))
            again = []
            for row, ids in zip(pending, candidates, strict=True):
                shown = ids[self._available[ids] & ~np.isin(ids, excluded[row])]
                if len(shown) < min(k, n_items):
                    again.append(row)
                    continue
                scores = exact_scores(queries[row].astype(np.float64), self._items[shown])
                best = np.lexsort((shown, -scores))[:k]
                found[row] = shown[best], scores[best].astype(np.float32)
            pending, wanted = again, wanted * _GROWTH
        if pending:  # much is hidden, or the clusters looked into hold too little
            self.fallbacks += len(pending)
            answers = self._exact.search(queries[pending], k, [excluded[row] for row in pending])
            for row, answer in zip(pending, answers, strict=True):
                found[row] = answer
        return [answer for answer in found if answer is not None]

    def _candidates(self, queries: NDArray[np.float32], wanted: int) -> list[NDArray[np.int64]]:
        """Per row, the items that the index finds for any of its queries."""
        batch, n_queries, dim = queries.shape
        self._faiss.omp_set_num_threads(self._threads)
        _, places = self._index.search(np.ascontiguousarray(queries.reshape(-1, dim)), wanted)
        rows = places.reshape(batch, n_queries * wanted)
        return [np.unique(row[row >= 0]) + 1 for row in rows]  # the index counts from item 1

    def _build(self) -> Any:
        n_items, dim = len(self._items) - 1, self._items.shape[1]
        clusters = max(1, min(n_items // 39, int(4 * n_items**0.5)))
        quantizer = self._faiss.IndexFlatIP(dim)
        index = self._faiss.IndexIVFFlat(quantizer, dim, clusters, self._faiss.METRIC_INNER_PRODUCT)
        rng = np.random.default_rng(0)
        count = min(n_items, clusters * _TRAINED_ON)
        index.train(self._items[1 + np.sort(rng.choice(n_items, count, replace=False))])
        index.add(np.ascontiguousarray(self._items[1:]))
        return index

    def _tune(self, sample: NDArray[np.float32]) -> tuple[int, float]:
        nothing = [np.empty(0, np.int64)] * len(sample)
        truth = self._exact.search(sample, RECALL_AT, nothing)
        recall = 0.0
        for probes in [*(probes for probes in _PROBES if probes < self._index.nlist), self._index.nlist]:
            self._index.nprobe = probes
            found = self.search(sample, RECALL_AT, nothing)
            hits = sum(len(np.intersect1d(a, b)) for (a, _), (b, _) in zip(truth, found, strict=True))
            recall = hits / max(1, sum(len(ids) for ids, _ in truth))
            if recall >= _WANTED_RECALL:
                break
        self.fallbacks = 0
        return int(self._index.nprobe), recall


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise SettingsError("top_k is approximate, faiss is not installed: pip install 'afterglow[ann]'") from None
    return faiss
