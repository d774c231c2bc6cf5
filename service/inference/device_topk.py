"""Top-k where the table is: on a GPU, with only queries going in and a few candidates coming out.

The graph scores the whole table in float32, takes the largest of each group of items, and of the best groups the best
items. So its two selections see few numbers: one over all scores would run in a single block of the GPU (ONNX Runtime's
TopK beyond 851,968 columns or 256 results). The candidates are scored again in float64 on the host, which decides order
and ties; the answer is certified when nothing left on the device could belong.

Every operator exists on the CPU as well, where the same code is tested. Not yet run on a GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.inference.runtime import make_session_of_bytes, place
from service.inference.topk.contract import Ranked, TopK, check_search, check_tables
from service.inference.topk.exact import exact_scores, largest_norm, rounding
from service.inference.topk.onnx_graph import GraphWriter

_GROUP = 64
# Candidates come in these numbers, so that the device's memory plans are few.
_CANDIDATES = (32, 64, 128, 256, 512, 1_024, 2_048)
# Beyond k and what may not appear: room for ties and rounding at the end of the list.
_MARGIN = 8
# Scores of one pass, 4 bytes each: 1 GiB on the device.
_SCORES_AT_ONCE = 1 << 28


class DeviceTopK:
    """`TopK` on the device that holds `table`.

    Args:
        table: from `place`, the same numbers as `items`. Shared with the encoder, which looks items up in it.
        items: float32 (n_items + 1, dim), for the exact scores. Read in place.
        available: bool (n_items + 1,). Kept; a change is carried to the device by the next search.
        fallback: answers rows whose candidates cannot be certified.
        on_cuda: where `table` lies.
    """

    def __init__(
        self, table: Any, items: NDArray[np.float32], available: NDArray[np.bool_], fallback: TopK, *, on_cuda: bool
    ) -> None:
        check_tables(items, available)
        self._table, self._items, self._available, self._fallback = table, items, available, fallback
        self._on_cuda = on_cuda
        self._longest = largest_norm(items)
        self._sessions: dict[int, Any] = {}
        self._known: NDArray[np.bool_] | None = None
        self._mask: Any = None
        self._one_at_a_time = threading.Lock()
        self.fallbacks = 0

    def search(self, queries: NDArray[np.float32], k: int, excluded: Sequence[NDArray[np.int64]]) -> list[Ranked]:
        check_search(queries, k, excluded)
        at_once = max(1, _SCORES_AT_ONCE // (len(self._items) * max(1, queries.shape[1])))
        found: list[Ranked] = []
        for start in range(0, len(queries), at_once):
            found += self._search(queries[start : start + at_once], k, excluded[start : start + at_once])
        return found

    def _search(self, queries: NDArray[np.float32], k: int, excluded: Sequence[NDArray[np.int64]]) -> list[Ranked]:
        found: list[Ranked | None] = [None] * len(queries)
        slack = rounding(queries, self._longest)
        wanted = k + max((len(indices) for indices in excluded), default=0) + _MARGIN
        pending = np.flatnonzero(np.isfinite(queries).all(axis=(1, 2))).tolist()
        for n_candidates in (number for number in _CANDIDATES if number >= wanted):
            if not pending:
                break
            candidates, scores = self._run(queries[pending], n_candidates)
            again = []
            for row, some, their_scores in zip(pending, candidates, scores, strict=True):
                real = np.isfinite(their_scores)
                ranked = self._rank(queries[row], some[real], k, excluded[row])
                # What is left scores no more than the last candidate, give or take float32's rounding.
                ceiling = float(their_scores[-1]) + slack[row] if real.all() else -np.inf
                if ceiling == -np.inf or (len(ranked[0]) == k and ranked[1][-1] > ceiling):
                    found[row] = ranked[0], ranked[1].astype(np.float32)
                else:
                    again.append(row)
            pending = again
        rest = [row for row, answer in enumerate(found) if answer is None]
        if rest:
            self.fallbacks += len(rest)
            answers = self._fallback.search(queries[rest], k, [excluded[row] for row in rest])
            for row, answer in zip(rest, answers, strict=True):
                found[row] = answer
        return [answer for answer in found if answer is not None]

    def _rank(
        self, queries: NDArray[np.float32], candidates: NDArray[np.int64], k: int, excluded: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        shown = candidates[self._available[candidates] & ~np.isin(candidates, excluded)]
        exact = exact_scores(queries.astype(np.float64), self._items[shown])
        order = np.lexsort((shown, -exact))[:k]
        return shown[order], exact[order]

    def _run(self, queries: NDArray[np.float32], n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(rows, candidates) item indices and float32 scores, best first; minus infinity where there are fewer."""
        n_queries = queries.shape[1]
        with self._one_at_a_time:
            session = self._sessions.get(n_queries)
            if session is None:
                graph = _graph(len(self._items), self._items.shape[1], n_queries)
                session = self._sessions[n_queries] = make_session_of_bytes(graph, on_cuda=self._on_cuda)
            binding = session.io_binding()
            binding.bind_cpu_input("queries", np.ascontiguousarray(queries.reshape(-1, queries.shape[2])))
            binding.bind_cpu_input("n_groups", np.array([min(n, -(-len(self._items) // _GROUP))]))
            binding.bind_cpu_input("n_candidates", np.array([min(n, _slots(len(self._items), n))]))
            binding.bind_ortvalue_input("items", self._table)
            binding.bind_ortvalue_input("mask", self._current_mask())
            binding.bind_output("candidates")
            binding.bind_output("scores")
            session.run_with_iobinding(binding)
            candidates, scores = binding.copy_outputs_to_cpu()
        return candidates, scores

    def _current_mask(self) -> Any:
        """(n_items + 1,) 0 where an item may appear and minus infinity elsewhere, on the device."""
        if self._known is None or not np.array_equal(self._known, self._available):
            self._known = self._available.copy()
            self._mask = place(np.where(self._known, 0, -np.inf).astype(np.float32), on_cuda=self._on_cuda)
        return self._mask


def _slots(n_rows: int, n_groups: int) -> int:
    """Places in the groups that are looked into."""
    return min(n_groups, -(-n_rows // _GROUP)) * _GROUP


def _graph(n_rows: int, dim: int, n_queries: int) -> bytes:
    graph = GraphWriter()
    graph.input("queries", "float32", ["rows_times_queries", dim])
    graph.input("items", "float32", [n_rows, dim])
    graph.input("mask", "float32", [n_rows])
    graph.input("n_groups", "int64", [1])
    graph.input("n_candidates", "int64", [1])
    graph.output("candidates", "int64", ["rows", "n_candidates"])
    graph.output("scores", "float32", ["rows", "n_candidates"])

    each = graph.node("Gemm", ["queries", "items"], "score_of_each_query", transB=1)
    by_row = graph.node("Reshape", [each, graph.constant("by_row", np.array([-1, n_queries, n_rows]))], "scores_by_row")
    largest = graph.node("ReduceMax", [by_row], "score", axes=[1], keepdims=1)  # (rows, 1, n_rows)
    allowed = graph.node("Add", [largest, "mask"], "allowed")
    # A pool is a maximum over groups that does not mind a last group of another size.
    maxima = graph.node("MaxPool", [allowed], "maxima", kernel_shape=[_GROUP], strides=[_GROUP], ceil_mode=1)
    one = graph.constant("axis_1", np.array([1]))
    flat_maxima = graph.node("Squeeze", [maxima, one], "flat_maxima")
    flat = graph.node("Squeeze", [allowed, one], "flat")
    graph.node_with("TopK", [flat_maxima, "n_groups"], ["best_maxima", "best_groups"], axis=1)
    # The items of those groups: group x 64 + 0..63, as one list a row.
    first = graph.node("Mul", ["best_groups", graph.constant("group_size", np.array(_GROUP))], "first")
    column = graph.node("Unsqueeze", [first, graph.constant("axis_2", np.array([2]))], "first_column")
    members = graph.node("Add", [column, graph.constant("places", np.arange(_GROUP))], "members")
    listed = graph.node("Reshape", [members, graph.constant("as_list", np.array([0, -1]))], "listed")
    # The last group may reach beyond the table: there the last item stands in, and has no score.
    inside = graph.node("Min", [listed, graph.constant("last", np.array(n_rows - 1))], "inside")
    read = graph.node("GatherElements", [flat, inside], "read", axis=1)
    exists = graph.node("Equal", [listed, inside], "exists")
    nothing = graph.constant("nothing", np.array(-np.inf, np.float32))
    scored = graph.node("Where", [exists, read, nothing], "scored")
    graph.node_with("TopK", [scored, "n_candidates"], ["scores", "chosen"], axis=1)
    graph.node("GatherElements", [inside, "chosen"], "candidates", axis=1)
    return graph.model()
