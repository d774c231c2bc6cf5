"""Exact top-k of a small catalogue in one graph: scores, hidden items struck out, the best, and these scored exactly.

One run and nothing to do afterwards: every operation of NumPy on more than some hundred numbers gives up the
interpreter, and beside a busy event loop each of them waits longer for it than it works.

The graph keeps the table as a constant, which ONNX Runtime rearranges into a private copy: right for a table of some
tens of megabytes, wrong for a large one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.inference.runtime import import_onnxruntime, session_options
from service.inference.topk.contract import Ranked, TopK, check_search, check_tables
from service.inference.topk.exact import largest_norm
from service.inference.topk.in_graph_nodes import graph_of_best, padded

# Queries and scores of one pass, which holds them all at once.
_QUERIES_AT_ONCE, _SCORES_AT_ONCE = 256, 1 << 23
# Items that are scored exactly beyond the k wanted ones: as many as may lie within float32's rounding of the k-th.
_SPARE, _GROWTH = 8, 4
# More items than that are scored block by block, by the fall-back: here each takes a vector of float64 at once.
_MOST_SCORED = 4_096
# Up to so many unavailable items are struck out row by row; more are a number added to each score, which costs a
# quarter of the MatMul where scores exceed the cache.
_MOST_STRUCK_OUT = 256
# Scores that could be larger may overflow in float32, and the length of a shorter query vanishes in it.
_LARGEST_SCORE, _SHORTEST_QUERY = 1e37, 1e-15

_NOTHING: Ranked = (np.empty(0, np.int64), np.empty(0, np.float32))


class InGraphTopK:
    """`TopK` in ONNX Runtime.

    An answer is certified when the exact k-th score is above all that an item left out could reach, float32's rounding
    included. Where many items score nearly the same more of them are scored exactly, at last all by the fall-back.

    Args:
        items: float32 (n_items + 1, dim), finite; row 0 is padding. Copied.
        available: bool (n_items + 1,). Kept, not copied: a change shows in the next search.
        fallback: answers what cannot be certified.
        n_queries: queries of a row.
    """

    def __init__(
        self, items: NDArray[np.float32], available: NDArray[np.bool_], fallback: TopK, n_queries: int, threads: int
    ) -> None:
        check_tables(items, available)
        self._items, self._n_rows, self._n_queries, self._threads = items, len(items), n_queries, threads
        self._longest = largest_norm(items)
        # More than the float32 scores of two items can be off by together, in lengths of the query: see `rounding`.
        self._slack = 2.0 * items.shape[1] * float(np.finfo(np.float32).eps) * self._longest
        self._available, self._fallback = available, fallback
        self._infinities = np.empty(0, np.float32)
        self._hidden: dict[str, NDArray[np.float32]] = {}
        self._session: Any = None
        self._note_available()
        self.fallbacks = 0

    def search(self, queries: NDArray[np.float32], k: int, excluded: Sequence[NDArray[np.int64]]) -> list[Ranked]:
        check_search(queries, k, excluded)
        if queries.shape[1] != self._n_queries:
            raise ValueError(f"queries have {queries.shape[1]} vectors a row, the graph has {self._n_queries}")
        at_once = max(1, min(_QUERIES_AT_ONCE, _SCORES_AT_ONCE // self._n_rows) // self._n_queries)
        found: list[Ranked] = []
        for start in range(0, len(queries), at_once):
            found += self._search(queries[start : start + at_once], k, excluded[start : start + at_once])
        return found

    def _search(self, queries: NDArray[np.float32], k: int, excluded: Sequence[NDArray[np.int64]]) -> list[Ranked]:
        found = [_NOTHING] * len(queries)
        if self._available.tobytes() != self._known:
            self._note_available()
        struck_out = _as_table(excluded, self._n_rows, self._always)
        width = k + _SPARE
        rest = self._certify(queries, struck_out, list(range(len(queries))), k, width, found)
        rest = [row for row in rest if not np.isnan(queries[row]).any()]
        while rest and width < _MOST_SCORED:
            width = min(width * _GROWTH, _MOST_SCORED)
            rest = self._certify(queries, struck_out, rest, k, width, found)
        if rest:
            self.fallbacks += len(rest)
            answers = self._fallback.search(queries[rest], k, [excluded[row] for row in rest])
            for row, answer in zip(rest, answers, strict=True):
                found[row] = answer
        return found

    def _certify(
        self,
        queries: NDArray[np.float32],
        struck_out: NDArray[np.int64],
        rows: list[int],
        k: int,
        width: int,
        found: list[Ranked],
    ) -> list[int]:
        """Puts the answers of these rows that can be certified into `found`; the other rows."""
        if len(rows) < len(queries):
            queries, struck_out = queries[rows], struck_out[rows]
        items, scores, exact, rough, lengths = self._session.run(
            ["items", "scores", "exact_best", "rough", "lengths"],
            {
                "queries": queries.reshape(-1, queries.shape[2]),
                "queries_of_rows": queries[:, None] if self._n_queries > 1 else queries,
                "struck_out": struck_out,
                "nothing": self._nothing(struck_out.shape),
                **self._hidden,
                "k": np.array([min(k, self._n_rows)]),
                "width": np.array([min(width, self._n_rows)]),
            },
        )
        rest = []
        told = zip(rows, items, scores, exact[:, -1].tolist(), rough[:, -1].tolist(), lengths.tolist(), strict=True)
        for row, its_items, its_scores, kth, left_out, length in told:
            if self._is_sure(kth, left_out, length):
                count = len(its_items) if kth > -np.inf else int(np.count_nonzero(its_scores > -np.inf))
                found[row] = its_items[:count], its_scores[:count]
            else:
                rest.append(row)
        return rest

    def _is_sure(self, kth: float, left_out: float, length: float) -> bool:
        """Whether no item left out can reach the k-th exact score.

        Args:
            left_out: what they reach at most by float32 scores; minus infinity where there is none.
            length: of the row's longest query.
        """
        if not length * self._longest < _LARGEST_SCORE:  # also where it is NaN
            return False
        return left_out == -np.inf or (length > _SHORTEST_QUERY and kth > left_out + self._slack * length)

    def _nothing(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Minus infinity in this shape; the same memory each time."""
        size = shape[0] * shape[1]
        if size > len(self._infinities):
            self._infinities = np.full(2 * size, -np.inf, np.float32)
        return self._infinities[:size].reshape(shape)

    def _note_available(self) -> None:
        """What no row may show: padding, what is unavailable, and what fills the table up to whole groups."""
        self._known = self._available.tobytes()
        hidden = np.full(padded(self._n_rows), -np.inf, np.float32)
        hidden[1 : self._n_rows][self._available[1:]] = 0
        self._always = np.flatnonzero(hidden)
        is_masked = len(self._always) > _MOST_STRUCK_OUT
        if self._session is None or is_masked != bool(self._hidden):
            graph = graph_of_best(self._items, self._n_queries, is_masked)
            self._session = None  # one table at a time
            self._session = _session(graph, self._threads)
        self._hidden = {}
        if is_masked:
            self._hidden, self._always = {"hidden": hidden}, self._always[:1]


def _session(graph: bytes, threads: int) -> Any:
    ort = import_onnxruntime()
    options = session_options(ort, threads)
    options.enable_mem_pattern = False
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _as_table(excluded: Sequence[NDArray[np.int64]], n_rows: int, always: NDArray[np.int64]) -> NDArray[np.int64]:
    """(rows, as many as the longest has) what is struck out: `always`, then the excluded indices, then 0s, no item."""
    first = len(always)
    table = np.zeros((len(excluded), first + max(map(len, excluded), default=0)), np.int64)
    table[:, :first] = always
    for row, indices in zip(table, excluded, strict=True):
        row[first : first + len(indices)] = indices
    told = table[:, first:]
    if told.min(initial=0) < 0 or told.max(initial=0) >= n_rows:
        told[(told < 0) | (told >= n_rows)] = 0
    return table
