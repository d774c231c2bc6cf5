"""Shortlists of a small catalogue: all scores, the excluded ones struck out, and the best of the rest, in one graph.

The graph keeps the table as a constant, which ONNX Runtime rearranges into a private copy: right for a table of a few
megabytes, wrong for a large one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.inference.runtime import import_onnxruntime, session_options
from service.inference.topk.certified import Shortlist
from service.inference.topk.exact import largest_norm, rounding
from service.inference.topk.onnx_graph import GraphWriter

# Beyond this share of the catalogue a shortlist is not worth its sorting.
_LARGEST_SHARE, _FEW_ITEMS = 1 / 4, 1_024


class InGraphSelector:
    """Starts a selection over a table of its own.

    Args:
        items: float32 (n_items + 1, dim). Copied.
        n_queries: queries of a row.
    """

    expected_hidden = 0  # struck out before the best are taken: half the work of a list with room for them

    def __init__(self, items: NDArray[np.float32], n_queries: int, threads: int) -> None:
        ort = import_onnxruntime()
        options = session_options(ort, threads)
        options.enable_mem_pattern = False
        self._session = ort.InferenceSession(_graph(items, n_queries), options, providers=["CPUExecutionProvider"])
        self._n_rows, self._n_queries, self._longest = len(items), n_queries, largest_norm(items)

    def select(self, queries: NDArray[np.float32], excluded: Sequence[NDArray[np.int64]]) -> InGraphSelector._Selection:
        return self._Selection(self, queries, _as_table(excluded, self._n_rows))

    class _Selection:
        def __init__(
            self, selector: InGraphSelector, queries: NDArray[np.float32], struck_out: NDArray[np.int64]
        ) -> None:
            self._selector, self._queries, self._struck_out = selector, queries, struck_out

        def best(self, rows: NDArray[np.int64], wanted: NDArray[np.int64]) -> Shortlist:
            return self._selector._shortlist(self._queries[rows], self._struck_out[rows], int(wanted.max()))

    def _shortlist(self, queries: NDArray[np.float32], struck_out: NDArray[np.int64], wanted: int) -> Shortlist:
        if queries.shape[1] != self._n_queries:
            raise ValueError(f"queries have {queries.shape[1]} vectors a row, the graph has {self._n_queries}")
        batch = len(queries)
        # One more than wanted: the last score is the ceiling, and the k-th must lie above it.
        k = min(wanted + 1, self._n_rows)
        if k > max(_FEW_ITEMS, self._n_rows * _LARGEST_SHARE):
            return Shortlist(np.empty((batch, 0), np.int64), np.full(batch, np.inf))
        flat = np.ascontiguousarray(queries.reshape(-1, queries.shape[2]))
        nothing = np.full(struck_out.shape, -np.inf, np.float32)
        scores, items = self._session.run(
            ["scores", "items"], {"queries": flat, "struck_out": struck_out, "nothing": nothing, "k": np.array([k])}
        )
        ceiling = np.full(batch, -np.inf)
        if k < self._n_rows:
            ceiling = scores[:, -1].astype(np.float64) + rounding(queries, self._longest)
        return Shortlist(items, ceiling)


def _as_table(excluded: Sequence[NDArray[np.int64]], n_rows: int) -> NDArray[np.int64]:
    """(rows, as many as the longest has) the excluded indices; 0, which is no item, in the place of others."""
    lengths = np.array([len(indices) for indices in excluded])
    table = np.zeros((len(excluded), max(1, int(lengths.max(initial=0)))), np.int64)
    table[np.arange(table.shape[1]) < lengths[:, None]] = np.concatenate(excluded)
    table[(table < 0) | (table >= n_rows)] = 0
    return table


def _graph(items: NDArray[np.float32], n_queries: int) -> bytes:
    graph = GraphWriter()
    graph.input("queries", "float32", ["n", items.shape[1]])
    graph.input("struck_out", "int64", ["batch", "excluded"])
    graph.input("nothing", "float32", ["batch", "excluded"])
    graph.input("k", "int64", [1])
    graph.output("scores", "float32", ["batch", "k"])
    graph.output("items", "int64", ["batch", "k"])
    table = graph.constant("table", np.ascontiguousarray(items))
    scores = graph.node("Gemm", ["queries", table], "of_queries", transB=1)
    if n_queries > 1:
        shape = graph.constant("shape", np.array([-1, n_queries, len(items)]))
        grouped = graph.node("Reshape", [scores, shape], "grouped")
        scores = graph.node("ReduceMax", [grouped], "of_rows", axes=[1], keepdims=0)
    scores = graph.node("ScatterElements", [scores, "struck_out", "nothing"], "of_the_rest", axis=1)
    graph.node_with("TopK", [scores, "k"], ["scores", "items"])
    return graph.model()
