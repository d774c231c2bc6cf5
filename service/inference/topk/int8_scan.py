"""The pass over the table in 8-bit integers: a quarter of the bytes, at a known error.

Every group of items shares one scale, so a group's largest score stays its largest in integers, and one multiplication
per group brings it back. What rounding to integers can do to a score is bounded by Cauchy-Schwarz: the part of the item
that was lost times the query, and the part of the query that was lost times the item.
"""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from service.inference.topk.exact import largest_norm, norms, query_norms, rounding
from service.inference.topk.onnx_graph import GraphWriter
from service.inference.topk.passes import BoundPass, Passes
from service.inference.topk.scan import GROUP, ScanError, part_bounds

_LARGEST = 127  # of an int8; -128 is not used
# Queries have a bit less. Where the processor has no VNNI, ONNX Runtime adds pairs of products of an unsigned and a
# signed byte in 16 bits, which overflow without a word; 2 x 127 x 127 does not. Unsigned items would be safe too, and
# slower.
_LARGEST_OF_QUERIES = 63
_ZERO_OF_QUERIES = 64  # how 0 is written in their unsigned bytes
# Items of a block. Its scores, 4 bytes each and for each query, should stay in cache.
_BLOCK_ITEMS = 16_384


class Int8Scan:
    """`Scan` over a private int8 copy of the table, a quarter of its size. Made at start, about a second per 256 MB.

    Args:
        items: float32 (n_items + 1, dim), finite. Not kept.
        threads: parts of the table that are read at the same time.
    """

    def __init__(self, items: NDArray[np.float32], threads: int) -> None:
        self.n_groups = -(-len(items) // GROUP)
        self._longest = largest_norm(items)
        bounds: list[NDArray[np.float64]] = []
        self._passes = Passes([_pass(items[start:end], bounds) for start, end in part_bounds(len(items), threads)])
        # One column for each part of a query's bound: its length, what it lost, and float32's rounding.
        self._bounds = np.concatenate([np.concatenate(bounds), np.ones((self.n_groups, 1))], axis=1)
        self._most = self._bounds.max(axis=0)
        _give_memory_back()

    def maxima(self, flat: NDArray[np.float32]) -> NDArray[np.float32]:
        scales, whole = _rounded_queries(flat)
        return self._passes.run({"queries": (whole + _ZERO_OF_QUERIES).astype(np.uint8), "scales": scales})

    def error(self, queries: NDArray[np.float32]) -> ScanError:
        batch, n_queries, dim = queries.shape
        flat = queries.reshape(batch * n_queries, dim)
        scales, whole = _rounded_queries(flat)
        lost = norms(flat.astype(np.float64) - scales.astype(np.float64) * whole)
        most_lost = lost.reshape(batch, n_queries).max(axis=1)
        per_row = np.stack([query_norms(queries), most_lost, rounding(queries, self._longest)], axis=1)
        return ScanError(per_row, self._bounds, self._most)


def _pass(items: NDArray[np.float32], bounds: list[NDArray[np.float64]]) -> BoundPass:
    """The pass over these items; appends (groups, 2) of what was lost and kept at most, see `_rounded`."""
    graph = GraphWriter()
    graph.input("queries", "uint8", ["n", items.shape[1]])
    graph.input("scales", "float32", ["n", 1])
    graph.output("maxima", "float32", ["n", "groups"])
    zeros = (
        graph.constant("zero_query", np.array(_ZERO_OF_QUERIES, np.uint8)),
        graph.constant("zero", np.array(0, np.int8)),
    )
    parts = []
    for start in range(0, len(items), _BLOCK_ITEMS):
        scale, whole, longest = _rounded(_padded(items[start : start + _BLOCK_ITEMS]))
        bounds.append(longest)
        parts.append(_add_block(graph, f"block_{start}", whole, scale, *zeros))
    graph.node("Concat", parts, "maxima", axis=1)
    return BoundPass(graph.model(), -(-len(items) // GROUP), {}, prepack=True)


def _rounded(
    block: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.float64]]:
    """Of each group: scale, the items in integers (groups, GROUP, dim), and the longest of what was lost and kept."""
    groups = block.reshape(-1, GROUP, block.shape[1])
    largest = np.abs(groups).max(axis=(1, 2))
    scale = np.where(largest > 0, largest / _LARGEST, 1).astype(np.float32)
    whole = np.rint(groups / scale[:, None, None]).clip(-_LARGEST, _LARGEST).astype(np.int8)
    kept = scale[:, None, None].astype(np.float64) * whole
    longest = [
        norms(part.reshape(block.shape)).reshape(len(groups), GROUP).max(axis=1) for part in (groups - kept, kept)
    ]
    return scale, whole, np.stack(longest, axis=1)


def _padded(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """The block with zeros up to a whole group."""
    missing = -len(block) % GROUP
    return np.concatenate([block, np.zeros((missing, block.shape[1]), np.float32)]) if missing else np.asarray(block)


def _add_block(
    graph: GraphWriter, name: str, whole: NDArray[np.int8], scale: NDArray[np.float32], zero_query: str, zero: str
) -> str:
    """Nodes that give a block's group maxima, float32 (n, groups), while its scores are in cache."""
    n_groups, size, dim = whole.shape
    # Columns ordered by their place in the group: the maximum over a group then runs over rows of memory.
    columns = np.ascontiguousarray(whole.transpose(2, 1, 0)).reshape(dim, size * n_groups)
    shape = graph.constant(f"{name}_shape", np.array([-1, size, n_groups]))
    items = graph.constant(name, columns)
    scores = graph.node("MatMulInteger", ["queries", items, zero_query, zero], f"{name}_scores")
    grouped = graph.node("Reshape", [scores, shape], f"{name}_grouped")
    largest = graph.node("ReduceMax", [grouped], f"{name}_largest", axes=[1], keepdims=0)
    as_float = graph.node("Cast", [largest], f"{name}_as_float", to="float32")
    of_groups = graph.node("Mul", [as_float, graph.constant(f"{name}_scales", scale)], f"{name}_of_groups")
    return graph.node("Mul", [of_groups, "scales"], f"{name}_maxima")


def _give_memory_back() -> None:
    """Returns freed memory to the system: writing and reading the graph takes several times what is kept of it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)


def _rounded_queries(flat: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Scale (n, 1) of each query, and the queries in integers."""
    largest = np.abs(flat).max(axis=1, keepdims=True)
    scale = np.where(largest > 0, largest / _LARGEST_OF_QUERIES, 1).astype(np.float32)
    with np.errstate(invalid="ignore"):
        whole = np.rint(flat / scale).clip(-_LARGEST_OF_QUERIES, _LARGEST_OF_QUERIES)
    return scale, whole.astype(np.int8)
