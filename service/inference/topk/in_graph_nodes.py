"""The graph behind `InGraphTopK`: scores, hidden items struck out, the best, and these scored exactly.

In a table of many rows the best are sought in two steps, so that only a sixteenth of the scores is sorted: the best of
the largest scores of groups, then the best of their members. Groups are columns of the scores laid out as a table of 16
rows, whose maximum runs over whole rows of memory.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.inference.topk.onnx_graph import GraphWriter

# From so many items on groups are worth their nodes.
_GROUPED_FROM, _GROUP = 20_000, 16
# Rows of as many float64 as fill whole lines of the cache are all added up in the same order, whatever their place.
_ALIGNED = 8


def padded(n_rows: int) -> int:
    """Rows of the table in the graph: whole groups."""
    return n_rows if n_rows < _GROUPED_FROM else -(-n_rows // _GROUP) * _GROUP


def graph_of_best(items: NDArray[np.float32], n_queries: int, is_masked: bool) -> bytes:
    """The model of `InGraphTopK`; with `is_masked` it takes what is added to the scores of all rows.

    As few nodes as possible: each costs some microseconds, and most runs are of one or two rows.
    """
    n_rows, dim = padded(len(items)), items.shape[1]
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
