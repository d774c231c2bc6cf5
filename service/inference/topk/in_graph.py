"""Exact top-k of a small catalogue in one graph: scores, hidden items struck out, the best, and these scored exactly.

One run and nothing to do afterwards: every operation of NumPy on more than some hundred numbers gives up the
interpreter, and beside a busy event loop each of them waits longer for it than it works.

The graph keeps the table as a constant, which ONNX Runtime rearranges into a private copy: right for a table of a few
megabytes, wrong for a large one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.inference.runtime import import_onnxruntime, session_options
from service.inference.topk.contract import Ranked, TopK, check_search, check_tables
from service.inference.topk.exact import largest_norm
from service.inference.topk.onnx_graph import GraphWriter

# Queries of one pass, which holds all their scores at once.
_QUERIES_AT_ONCE = 256
# Items that are scored exactly beyond the k wanted ones: as many as may lie within float32's rounding of the k-th.
_SPARE, _GROWTH = 8, 4
# Beyond this share of the catalogue scoring exactly is not worth it.
_LARGEST_SHARE, _FEW_ITEMS = 1 / 4, 1_024
# Scores that could be larger may overflow in float32.
_LARGEST_SCORE = 1e37
# Rows of as many float64 as fill whole lines of the cache are all added up in the same order, whatever their place.
_ALIGNED = 8

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
        ort = import_onnxruntime()
        options = session_options(ort, threads)
        options.enable_mem_pattern = False
        self._session = ort.InferenceSession(_graph(items, n_queries), options, providers=["CPUExecutionProvider"])
        self._n_rows, self._n_queries = len(items), n_queries
        self._available, self._fallback = available, fallback
        self._known = b""
        self._hidden = np.empty(0, np.float32)
        self.fallbacks = 0

    def search(self, queries: NDArray[np.float32], k: int, excluded: Sequence[NDArray[np.int64]]) -> list[Ranked]:
        check_search(queries, k, excluded)
        if queries.shape[1] != self._n_queries:
            raise ValueError(f"queries have {queries.shape[1]} vectors a row, the graph has {self._n_queries}")
        at_once = max(1, _QUERIES_AT_ONCE // self._n_queries)
        found: list[Ranked] = []
        for start in range(0, len(queries), at_once):
            found += self._search(queries[start : start + at_once], k, excluded[start : start + at_once])
        return found

    def _search(self, queries: NDArray[np.float32], k: int, excluded: Sequence[NDArray[np.int64]]) -> list[Ranked]:
        found = [_NOTHING] * len(queries)
        struck_out = _as_table(excluded, self._n_rows)
        width = k + _SPARE
        rest = self._certify(queries, struck_out, list(range(len(queries))), k, width, found)
        for row in [row for row in rest if np.isnan(queries[row]).any()]:
            found[row] = _NOTHING
            rest.remove(row)
        most = max(_FEW_ITEMS, int(self._n_rows * _LARGEST_SHARE))
        while rest and width < most:
            width = min(width * _GROWTH, most)
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
        items, scores, certified = self._session.run(
            ["items", "scores", "certified"],
            {
                "queries": queries.reshape(-1, queries.shape[2]),
                "struck_out": struck_out,
                "hidden": self._hidden_now(),
                "k": np.array([min(k, self._n_rows)]),
                "width": np.array([min(width, self._n_rows)]),
            },
        )
        for row, its_items, its_scores, last in zip(rows, items, scores, scores[:, -1].tolist(), strict=True):
            count = len(its_items) if last > -np.inf else int(np.count_nonzero(its_scores > -np.inf))
            found[row] = its_items[:count], its_scores[:count]
        return [row for row, is_sure in zip(rows, certified.tolist(), strict=True) if not is_sure]

    def _hidden_now(self) -> NDArray[np.float32]:
        """(n_items + 1,) what is added to the scores: minus infinity for padding and what is unavailable."""
        available = self._available.tobytes()
        if available != self._known:
            self._known = available
            self._hidden = np.where(self._available, np.float32(0), np.float32(-np.inf))
            self._hidden[0] = -np.inf
        return self._hidden


def _as_table(excluded: Sequence[NDArray[np.int64]], n_rows: int) -> NDArray[np.int64]:
    """(rows, as many as the longest has) the excluded indices; 0, which is no item, in the place of others."""
    table = np.zeros((len(excluded), max([1, *map(len, excluded)])), np.int64)
    for row, indices in zip(table, excluded, strict=True):
        row[: len(indices)] = indices
    if table.min(initial=0) < 0 or table.max(initial=0) >= n_rows:
        table[(table < 0) | (table >= n_rows)] = 0
    return table


def _graph(items: NDArray[np.float32], n_queries: int) -> bytes:
    n_rows, dim = items.shape
    graph = GraphWriter()
    graph.input("queries", "float32", ["n", dim])
    graph.input("struck_out", "int64", ["batch", "excluded"])
    graph.input("hidden", "float32", [n_rows])
    graph.input("k", "int64", [1])
    graph.input("width", "int64", [1])
    graph.output("items", "int64", ["batch", "k"])
    graph.output("scores", "float32", ["batch", "k"])
    graph.output("certified", "bool", ["batch"])

    # Float32 scores of all items, and the best of those that may appear. (batch, width)
    table = graph.constant("table", np.ascontiguousarray(items))
    scores = graph.node("Gemm", ["queries", table, "hidden"], "of_queries", transB=1)
    if n_queries > 1:
        by_row = graph.constant("by_row", np.array([-1, n_queries, n_rows]))
        scores = graph.node(
            "ReduceMax", [graph.node("Reshape", [scores, by_row], "grouped")], "of_rows", axes=[1], keepdims=0
        )
    nothing = graph.constant("nothing", np.array(-np.inf, np.float32))
    nothings = graph.node("Expand", [nothing, graph.node("Shape", ["struck_out"], "shape")], "nothings")
    scores = graph.node("ScatterElements", [scores, "struck_out", nothings], "of_the_rest", axis=1)
    graph.node_with("TopK", [scores, "width"], ["rough", "unsorted"])

    # In ascending order, so that among equals the lowest index is the first one found. (batch, width)
    graph.node_with("TopK", ["unsorted", "width"], ["candidates", "places"], largest=0)
    rough = graph.node("GatherElements", ["rough", "places"], "rough_of_candidates", axis=1)
    is_hidden = graph.node("Equal", [rough, nothing], "is_hidden")

    # Exact scores: products and sums in float64, no matrix multiplication, whose rounding depends on the place.
    vectors = graph.node("Cast", [graph.node("Gather", [table, "candidates"], "gathered")], "vectors", to="float64")
    of_rows = graph.constant("of_rows_shape", np.array([-1, 1, n_queries, dim]))
    wide = graph.node("Cast", ["queries"], "wide_queries", to="float64")
    wide = graph.node("Reshape", [wide, of_rows], "queries_of_rows")  # (batch, 1, n_queries, dim)
    each = graph.node("Unsqueeze", [vectors, graph.constant("axis_2", np.array([2]))], "each_vector")
    products = graph.node("Mul", [each, wide], "products")  # (batch, width, n_queries, dim)
    if dim % _ALIGNED:
        pads = graph.constant("pads", np.array([0] * 7 + [-dim % _ALIGNED]))
        products = graph.node("Pad", [products, pads], "aligned_products")
    last_axis = graph.constant("last_axis", np.array([3]))
    exact = graph.node("ReduceSum", [products, last_axis], "exact_of_queries", keepdims=0)
    exact = graph.node("ReduceMax", [exact], "exact_of_all", axes=[2], keepdims=0)
    no_score = graph.constant("no_score", np.array(-np.inf))
    exact = graph.node("Where", [is_hidden, no_score, exact], "exact")
    graph.node_with("TopK", [exact, "k"], ["best", "best_places"])
    graph.node("GatherElements", ["candidates", "best_places"], "items", axis=1)
    graph.node("Cast", ["best"], "scores", to="float32")

    # More than the float32 scores of two items can be off by together: see `exact.rounding`.
    longest = largest_norm(items)
    squares = graph.node(
        "ReduceSum", [graph.node("Mul", [wide, wide], "wide_squares"), last_axis], "squares", keepdims=0
    )
    norm = graph.node("Sqrt", [graph.node("ReduceMax", [squares], "largest_square", axes=[1, 2], keepdims=0)], "norm")
    unit = graph.constant("unit", np.array(2.0 * dim * float(np.finfo(np.float32).eps) * longest))
    slack = graph.node("Mul", [norm, unit], "slack")
    one = graph.constant("one", np.array([1]))
    at_k = graph.node("Sub", ["k", one], "at_k")
    kth = graph.node("Squeeze", [graph.node("Gather", ["best", at_k], "kth_column", axis=1), one], "kth")
    at_end = graph.node("Sub", ["width", one], "at_end")
    left_out = graph.node("Squeeze", [graph.node("Gather", ["rough", at_end], "last_column", axis=1), one], "left_out")
    none_left = graph.node("Equal", [left_out, nothing], "none_left")
    ceiling = graph.node("Add", [graph.node("Cast", [left_out], "wide_left_out", to="float64"), slack], "ceiling")
    above = graph.node("Greater", [kth, ceiling], "above")
    most = graph.constant("most", np.array(_LARGEST_SCORE / max(longest, 1e-300)))
    in_range = graph.node("Less", [norm, most], "in_range")
    graph.node("And", [graph.node("Or", [none_left, above], "sure"), in_range], "certified")
    return graph.model()
