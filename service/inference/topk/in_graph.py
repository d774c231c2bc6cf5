"""Exact top-k of a small catalogue in one graph: scores, hidden items struck out, the best, and these scored exactly.

In a table of many rows the best are sought in two steps, so that only a sixteenth of the scores is sorted: the best of
the largest scores of groups, then the best of their members. Groups are columns of the scores laid out as a table of 16
rows, whose maximum runs over whole rows of memory.

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
from service.inference.topk.onnx_graph import GraphWriter

# Queries and scores of one pass, which holds them all at once.
_QUERIES_AT_ONCE, _SCORES_AT_ONCE = 256, 1 << 23
# From so many items on groups are worth their nodes.
_GROUPED_FROM, _GROUP = 20_000, 16
# Items that are scored exactly beyond the k wanted ones: as many as may lie within float32's rounding of the k-th.
_SPARE, _GROWTH = 8, 4
# More items than that are scored block by block, by the fall-back: here each takes a vector of float64 at once.
_MOST_SCORED = 4_096
# Up to so many unavailable items are struck out row by row; more are a number added to each score, which costs a
# quarter of the MatMul where scores exceed the cache.
_MOST_STRUCK_OUT = 256
# Scores that could be larger may overflow in float32, and the length of a shorter query vanishes in it.
_LARGEST_SCORE, _SHORTEST_QUERY = 1e37, 1e-15
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
        hidden = np.full(_padded(self._n_rows), -np.inf, np.float32)
        hidden[1 : self._n_rows][self._available[1:]] = 0
        self._always = np.flatnonzero(hidden)
        is_masked = len(self._always) > _MOST_STRUCK_OUT
        if self._session is None or is_masked != bool(self._hidden):
            graph = _graph(self._items, self._n_queries, is_masked)
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


def _padded(n_rows: int) -> int:
    """Rows of the table in the graph: whole groups."""
    return n_rows if n_rows < _GROUPED_FROM else -(-n_rows // _GROUP) * _GROUP


def _graph(items: NDArray[np.float32], n_queries: int, is_masked: bool) -> bytes:
    # As few nodes as possible: each costs some microseconds, and most runs are of one or two rows.
    n_rows, dim = _padded(len(items)), items.shape[1]
    of_row = [n_queries] if n_queries > 1 else []
    graph = GraphWriter()
    graph.input("queries", "float32", ["n", dim])
    graph.input("queries_of_rows", "float32", ["batch", 1, *of_row, dim])  # the same numbers
    graph.input("struck_out", "int64", ["batch", "excluded"])
    graph.input("nothing", "float32", ["batch", "excluded"])
    if is_masked:
        graph.input("hidden", "float32", [n_rows])
    graph.input("k", "int64", [1])
    graph.input("width", "int64", [1])
    graph.output("items", "int64", ["batch", "k"])
    graph.output("scores", "float32", ["batch", "k"])
    graph.output("exact_best", "float64", ["batch", "k"])
    graph.output("rough", "float32", ["batch", "width"])
    graph.output("lengths", "float32", ["batch"])

    # Float32 scores of all items, and the best of those that may appear. (batch, width)
    table = graph.constant("table", np.pad(items, ((0, n_rows - len(items)), (0, 0))))
    scores = graph.node("Gemm", ["queries", table, *(["hidden"] if is_masked else [])], "of_queries", transB=1)
    if n_queries > 1:
        by_row = graph.constant("by_row", np.array([-1, n_queries, n_rows]))
        grouped = graph.node("Reshape", [scores, by_row], "grouped")
        scores = graph.node("ReduceMax", [grouped], "of_rows", axes=[1], keepdims=0)
        for name in (scores, "of_the_rest"):  # so that striking out happens in place
            graph.known(name, "float32", ["batch", n_rows])
    scores = graph.node("ScatterElements", [scores, "struck_out", "nothing"], "of_the_rest", axis=1)
    if n_rows >= _GROUPED_FROM:
        _best_by_groups(graph, scores, n_rows // _GROUP)
    else:
        graph.node_with("TopK", [scores, "width"], ["rough", "unsorted"])

    # In ascending order, so that among equals the lowest index is the first one found. (batch, width)
    graph.node_with("TopK", ["unsorted", "width"], ["candidates", "places"], largest=0)
    rough = graph.node("GatherElements", ["rough", "places"], "rough_of_candidates", axis=1)
    infinity = graph.constant("infinity", np.array(-np.inf, np.float32))
    is_hidden = graph.node("Equal", [rough, infinity], "is_hidden")

    # Exact scores: products and sums in float64, no matrix multiplication, whose rounding depends on the place.
    vectors = graph.node("Cast", [graph.node("Gather", [table, "candidates"], "gathered")], "vectors", to="float64")
    if n_queries > 1:
        vectors = graph.node("Unsqueeze", [vectors, graph.constant("axis_2", np.array([2]))], "each_vector")
    wide = graph.node("Cast", ["queries_of_rows"], "wide_queries", to="float64")
    products = graph.node("Mul", [vectors, wide], "products")  # (batch, width, [n_queries,] dim)
    axis = 2 + len(of_row)
    if dim % _ALIGNED:
        pads = graph.constant("pads", np.array([0] * (2 * axis + 1) + [-dim % _ALIGNED]))
        products = graph.node("Pad", [products, pads], "aligned_products")
    exact = graph.node("ReduceSum", [products, graph.constant("last_axis", np.array([axis]))], "sums", keepdims=0)
    if n_queries > 1:
        exact = graph.node("ReduceMax", [exact], "largest_sums", axes=[2], keepdims=0)
    exact = graph.node("Where", [is_hidden, graph.constant("no_score", np.array(-np.inf)), exact], "exact")
    graph.node_with("TopK", [exact, "k"], ["exact_best", "best_places"])
    graph.node("GatherElements", ["candidates", "best_places"], "items", axis=1)
    graph.node("Cast", ["exact_best"], "scores", to="float32")

    lengths = graph.node("ReduceL2", ["queries_of_rows"], "length_of_queries", axes=[axis], keepdims=0)
    graph.node("ReduceMax", [lengths], "lengths", axes=list(range(1, axis)), keepdims=0)
    return graph.model()


def _best_by_groups(graph: GraphWriter, scores: str, n_groups: int) -> None:
    """`rough` and `unsorted`: as many groups as items are wanted hold these items, and no other group a better one."""
    as_table = graph.constant("as_table", np.array([0, _GROUP, n_groups]))
    columns = graph.node("Reshape", [scores, as_table], "columns")
    largest = graph.node("ReduceMax", [columns], "largest", axes=[1], keepdims=0)
    n_wanted = graph.node("Min", ["width", graph.constant("n_groups", np.array([n_groups]))], "n_wanted")
    graph.node_with("TopK", [largest, n_wanted], ["of_groups", "groups"], sorted=0)
    first = graph.node("Unsqueeze", ["groups", graph.constant("axis_of_members", np.array([2]))], "first_members")
    steps = graph.constant("steps", np.arange(_GROUP) * n_groups)
    members = graph.node("Add", [first, steps], "members")  # (batch, n_wanted, 16)
    listed = graph.node("Reshape", [members, graph.constant("as_list", np.array([0, -1]))], "listed")
    read = graph.node("GatherElements", [scores, listed], "read", axis=1)
    graph.node_with("TopK", [read, "width"], ["rough", "places_in_list"])
    graph.node("GatherElements", [listed, "places_in_list"], "unsorted", axis=1)
