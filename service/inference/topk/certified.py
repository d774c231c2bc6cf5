"""Exact top-k from a fast scan: shortlist, score exactly, and check that nothing left out could belong.

A scan says how large the scores of a group of items can be, give or take its own error. The groups that can matter are
scored again in float64. The answer is certified when the k-th exact score is above all that a group left out could
hold. Where it is not (many of the best items are excluded or unavailable) the shortlist grows; a row for which it would
have to hold much of the catalogue is answered by the fall-back, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.inference.topk.contract import Ranked, TopK, check_search, check_tables
from service.inference.topk.exact import exact_scores

_NOTHING: Ranked = (np.empty(0, np.int64), np.empty(0, np.float32))

# Queries of one pass: beyond it MatMul gains nothing, and the maxima of a large catalogue would take much memory.
_QUERIES_AT_ONCE = 256
_GROWTH = 4


@dataclass(frozen=True)
class Shortlist:
    """Items for each row in any order, 0 where a row has fewer, and what no item outside them reaches."""

    items: NDArray[np.int64]  # (rows, width)
    ceiling: NDArray[np.float64]  # (rows,)


class Selection(Protocol):
    """What a scan found for some queries."""

    def best(self, rows: NDArray[np.int64], wanted: NDArray[np.int64]) -> Shortlist:
        """Every item that can be among the best `wanted` of each of these rows (of the queries; ascending).

        A ceiling of infinity gives a row up; of minus infinity says that no item was left out.
        """


class Selector(Protocol):
    """Scans the table for queries. `expected_hidden`: how many excluded items the first shortlist reckons with."""

    expected_hidden: int

    def select(self, queries: NDArray[np.float32], excluded: Sequence[NDArray[np.int64]]) -> Selection:
        """What the scan finds. It may leave out each row's excluded items, also above its ceiling, and need not."""


class CertifiedTopK:
    """`TopK` by shortlists.

    Args:
        selector: makes the shortlists.
        items: float32 (n_items + 1, dim), finite; row 0 is padding. Read in place, never copied.
        available: bool (n_items + 1,). Kept, not copied: a change shows in the next search.
        fallback: answers the rows whose shortlist would be too long.
    """

    def __init__(
        self, selector: Selector, items: NDArray[np.float32], available: NDArray[np.bool_], fallback: TopK
    ) -> None:
        check_tables(items, available)
        self._selector, self._fallback = selector, fallback
        self._items, self._available = np.asarray(items), available
        self.fallbacks = 0

    def search(self, queries: NDArray[np.float32], k: int, excluded: Sequence[NDArray[np.int64]]) -> list[Ranked]:
        check_search(queries, k, excluded)
        at_once = max(1, _QUERIES_AT_ONCE // max(1, queries.shape[1]))
        found: list[Ranked] = []
        for start in range(0, len(queries), at_once):
            found += self._search(queries[start : start + at_once], k, excluded[start : start + at_once])
        return found

    def _search(self, queries: NDArray[np.float32], k: int, excluded: Sequence[NDArray[np.int64]]) -> list[Ranked]:
        found: list[Ranked | None] = [None] * len(queries)
        finite = np.isfinite(queries).all(axis=(1, 2))
        for row in np.flatnonzero(np.isnan(queries).any(axis=(1, 2))).tolist():
            found[row] = _NOTHING
        asked = np.flatnonzero(finite)
        if len(asked):
            self._certify(queries[asked], k, [excluded[row] for row in asked.tolist()], asked, found)
        rest = [row for row, answer in enumerate(found) if answer is None]
        if rest:
            self.fallbacks += len(rest)
            for row, answer in zip(
                rest, self._fallback.search(queries[rest], k, [excluded[row] for row in rest]), strict=True
            ):
                found[row] = answer
        return [answer for answer in found if answer is not None]

    def _certify(
        self,
        queries: NDArray[np.float32],
        k: int,
        excluded: Sequence[NDArray[np.int64]],
        places: NDArray[np.intp],
        found: list[Ranked | None],
    ) -> None:
        """Puts every answer that can be certified into its place."""
        hidden = np.array([len(indices) for indices in excluded])
        shown = max(1, int(np.count_nonzero(self._available))) / len(self._items)
        wanted = np.ceil((k + np.minimum(hidden, self._selector.expected_hidden)) / shown).astype(np.int64)
        selection = self._selector.select(queries, excluded)
        pending = np.arange(len(queries))
        while len(pending):
            shortlist = selection.best(pending, wanted[pending])
            items, exact, counts = self._rank(
                shortlist.items, queries[pending], k, [excluded[row] for row in pending.tolist()]
            )
            ceiling = shortlist.ceiling
            certified = ceiling == -np.inf
            if items.shape[1] == k:
                certified |= (counts == k) & (exact[:, -1] > ceiling)
            scores = exact.astype(np.float32)
            for place, row in zip(np.flatnonzero(certified).tolist(), pending[certified].tolist(), strict=True):
                found[places[row]] = items[place, : counts[place]], scores[place, : counts[place]]
            pending = pending[~certified & (ceiling < np.inf)]
            wanted[pending] *= _GROWTH

    def _rank(
        self, items: NDArray[np.int64], queries: NDArray[np.float32], k: int, excluded: Sequence[NDArray[np.int64]]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """Each row's best k of its items (rows, width) that may appear, by exact score, and how many there are."""
        items = np.sort(items, axis=1)  # and a stable order by score below: ties go to the lowest index
        shown = self._available[items] & (items > 0)
        n_rows = len(self._items)
        hidden = np.concatenate(excluded)
        if len(hidden):
            starts = np.arange(len(items)) * n_rows  # a row and an item make one number
            of_rows = np.repeat(starts, [len(indices) for indices in excluded])
            hidden = np.sort((of_rows + hidden)[(hidden > 0) & (hidden < n_rows)])
        if len(hidden):
            keys = items + starts[:, None]
            shown &= hidden[np.minimum(hidden.searchsorted(keys), len(hidden) - 1)] != keys
        exact = np.where(shown, exact_scores(queries.astype(np.float64), self._items[items]), -np.inf)
        order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
        rows = np.arange(len(items))[:, None]
        return items[rows, order], exact[rows, order], np.minimum(shown.sum(axis=1), k)
