"""Shortlists from a scan of group maxima: which groups can matter, and which of their items.

In two steps, because a scan may be rough: the groups said to be best are scored in float32, which gives a floor that is
nearly exact; every other group whose maximum can reach that floor, give or take its own error, follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.inference.topk.certified import Shortlist
from service.inference.topk.exact import largest_norm, rounding
from service.inference.topk.scan import GROUP, Scan

# A shortlist may hold this share of the groups, or this many: then the fall-back is the faster way.
_LARGEST_SHARE, _FEW_GROUPS = 1 / 8, 64
# Groups whose vectors are copied at once: a few megabytes.
_PAIRS_AT_ONCE = 1_024
_LOWEST = float(np.finfo(np.float32).min)  # in place of minus infinity, which stands for no score


class GroupSelector:
    """Starts a selection by one scan of the table.

    Args:
        items: float32 (n_items + 1, dim). Read in place, never copied.
    """

    expected_hidden = 8

    def __init__(self, scan: Scan, items: NDArray[np.float32]) -> None:
        self._scan, self._groups = scan, _Groups(items)

    def select(self, queries: NDArray[np.float32], excluded: Sequence[NDArray[np.int64]]) -> _GroupSelection:
        return _GroupSelection(self._scan, self._groups, queries)


class _GroupSelection:
    """The group maxima of some rows, from which shortlists of any length are taken."""

    def __init__(self, scan: Scan, groups: _Groups, queries: NDArray[np.float32]) -> None:
        batch, n_queries, dim = queries.shape
        maxima = scan.maxima(queries.reshape(batch * n_queries, dim))
        if n_queries > 1:
            maxima = maxima.reshape(batch, n_queries, -1).max(axis=1)
        self._maxima, self._coarse = maxima, _coarse(maxima)
        self._error = scan.error(queries)
        self._error_of_all = self._error.largest()
        self._rounding = rounding(queries, groups.longest)
        self._groups, self._queries = groups, queries

    def best(self, rows: NDArray[np.int64], wanted: NDArray[np.int64]) -> Shortlist:
        """Every item that can be among the best `wanted` of each of these rows (of the selection; ascending)."""
        everything = len(rows) == len(self._maxima)
        maxima, coarse = (self._maxima, self._coarse) if everything else (self._maxima[rows], self._coarse[rows])
        # As many groups as wanted are said to reach `start`; no group below `reach` can hold an item of theirs.
        start = _largest(coarse, wanted)
        reach = start - 2 * self._error_of_all[rows]
        with np.errstate(invalid="ignore"):
            hits = np.flatnonzero(maxima >= reach.astype(np.float32)[:, None])
        which, groups = np.divmod(hits, maxima.shape[1])
        counts = np.bincount(which, minlength=len(rows))
        too_many = (counts > max(_FEW_GROUPS, maxima.shape[1] * _LARGEST_SHARE)) | np.isnan(start)
        if too_many.any():
            kept = ~too_many[which]
            hits, which, groups = hits[kept], which[kept], groups[kept]

        said = maxima.reshape(-1)[hits]
        first = said >= start[which]
        scores = np.full((len(hits), GROUP), -np.inf, np.float32)
        scores[first] = self._groups.scores(groups[first], self._queries, rows[which[first]])
        # The items that reach `floor` are at least `wanted`, by scores that are off by float32's rounding alone.
        floor = _largest_of_each(which[first], scores[first].max(axis=1, initial=-np.inf), wanted)
        slack = self._rounding[rows]
        floor -= 2 * slack
        second = ~first & (said + self._error.of(rows[which], groups) >= floor[which])
        scores[second] = self._groups.scores(groups[second], self._queries, rows[which[second]])
        pair, member = np.nonzero(scores >= np.maximum(floor, _LOWEST).astype(np.float32)[which, None])
        ceiling = np.where(too_many, np.inf, floor + slack)
        return Shortlist(_by_row(which[pair], groups[pair] * GROUP + member, len(rows), 0), ceiling)


class _Groups:
    """The item table as groups of consecutive rows, the last one filled up with zeros."""

    def __init__(self, items: NDArray[np.float32]) -> None:
        n_rows, dim = items.shape
        self.longest = largest_norm(items)
        self._dim = dim
        self._whole = np.asarray(items)[: n_rows // GROUP * GROUP].reshape(-1, GROUP * dim)
        self._tail = np.asarray(items)[n_rows // GROUP * GROUP :]

    def scores(
        self, groups: NDArray[np.int64], queries: NDArray[np.float32], rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """(pairs, GROUP) float32 scores of each group's items for the row beside it; -inf beyond the table."""
        columns = queries.transpose(0, 2, 1)
        found = np.empty((len(groups), GROUP), np.float32)
        for start in range(0, len(groups), _PAIRS_AT_ONCE):
            some = slice(start, start + _PAIRS_AT_ONCE)
            # A group lies in one piece: one copy of some kilobytes, where single rows would each miss the cache.
            vectors = self._vectors(groups[some]).reshape(-1, GROUP, self._dim)
            with np.errstate(invalid="ignore", over="ignore"):
                found[some] = (vectors @ columns[rows[some]]).max(axis=2)
        found[groups == len(self._whole), len(self._tail) :] = -np.inf
        return found

    def _vectors(self, groups: NDArray[np.int64]) -> NDArray[np.float32]:
        partial = np.flatnonzero(groups == len(self._whole))
        if not len(partial):
            return self._whole.take(groups, axis=0)
        vectors = np.zeros((len(groups), GROUP * self._dim), np.float32)
        if len(self._whole):
            self._whole.take(groups, axis=0, out=vectors, mode="clip")
        vectors[partial] = 0
        vectors[partial, : self._tail.size] = self._tail.reshape(-1)
        return vectors


def _coarse(maxima: NDArray[np.float32]) -> NDArray[np.float32]:
    """(rows, about the root of n_groups x 32) maxima of groups of groups: few enough to sort."""
    rows, n_groups = maxima.shape
    size = max(1, int((n_groups / 32) ** 0.5))
    whole = n_groups // size * size
    # Groups that lie far apart go together: the maximum then runs over whole rows of memory.
    coarse = maxima[:, :whole].reshape(rows, size, -1).max(axis=1)
    return np.concatenate([coarse, maxima[:, whole:]], axis=1)


def _largest(values: NDArray[np.float32], which: NDArray[np.int64]) -> NDArray[np.float64]:
    """(rows,) each row's which-th largest value; minus infinity where it has fewer."""
    width = values.shape[1]
    places = width - which
    inside = np.unique(places[places >= 0])
    if len(inside):
        values = np.partition(values, inside, axis=1)
    chosen = values[np.arange(len(values)), np.maximum(places, 0)].astype(np.float64)
    return np.where(places >= 0, chosen, -np.inf)


def _largest_of_each(
    rows: NDArray[np.int64], values: NDArray[np.float32], which: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(rows,) the which-th largest of the values that belong to each row; `rows` is ascending."""
    return _largest(_by_row(rows, values, len(which), -np.inf), which)


def _by_row(rows: NDArray[np.int64], values: NDArray[Any], n_rows: int, filler: float) -> NDArray[Any]:
    """(n_rows, as many as the fullest row has) the values of each row, then the filler; `rows` is ascending."""
    counts = np.bincount(rows, minlength=n_rows)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((n_rows, max(1, int(counts.max(initial=0)))), filler, values.dtype)
    table[rows, places] = values
    return table
