"""One pass over the whole table: the largest score in each group of consecutive items, for every query at once.

The pass is one call of ONNX Runtime, not a loop in Python: between two steps of a loop the event loop would take the
interpreter's lock, and a scan of 100 steps would wait for it 100 times. Inside the graph the table is read in blocks
whose scores stay in cache; only the maxima leave it. The blocks are bound inputs that point into the table, so nothing
is copied (an initializer would be, and a prepacked MatMul would copy it once more).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.inference.topk.exact import largest_norm, rounding
from service.inference.topk.onnx_graph import GraphWriter
from service.inference.topk.passes import BoundPass, Passes

GROUP = 16

# Bytes of a block: with its scores it fits the second-level cache, and a MatMul is long enough to be worth its call.
_BLOCK_BYTES = 1 << 20

# So many queries are multiplied one after the other with each block, which is in cache from the second on. A MatMul of
# several fills up to 16 columns and takes for two queries what it takes for 16.
_ONE_BY_ONE = 4


class Scan(Protocol):
    """Reads the table once. Group g holds the rows from g x GROUP up to the next group, or to the end of the table."""

    n_groups: int

    def maxima(self, flat: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, n_groups) the largest score in each group for each of n queries (n, dim)."""

    def error(self, queries: NDArray[np.float32]) -> ScanError:
        """How far the maxima of `queries` (batch, n_queries, dim) can lie from exact scores."""


@dataclass(frozen=True)
class ScanError:
    """A bound that depends on the row and on the group: `row @ group` summed over the parts.

    `per_row` is (batch, parts), `per_group` (n_groups, parts) or (1, parts) where all groups are alike, `most` (parts,)
    its maximum over groups, which no search need look for again.
    """

    per_row: NDArray[np.float64]
    per_group: NDArray[np.float64]
    most: NDArray[np.float64]

    def largest(self) -> NDArray[np.float64]:
        """(batch,) the bound that holds for every group."""
        return np.asarray(self.per_row @ self.most)

    def of(self, rows: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
        """(pairs,) the bound of each pair."""
        alike = len(self.per_group) == 1
        per_group = self.per_group[0] if alike else self.per_group[groups]
        return np.asarray((self.per_row[rows] * per_group).sum(axis=1))


class FloatScan:
    """`Scan` in float32 over the table as it lies in memory.

    Args:
        items: float32 (n_items + 1, dim), C order. Read in place, never copied.
        threads: parts of the table that are read at the same time.
    """

    def __init__(self, items: NDArray[np.float32], threads: int) -> None:
        self.n_groups = -(-len(items) // GROUP)
        self._longest = largest_norm(items)
        one_by_one, together = [], []
        for first, end in part_bounds(len(items), threads):
            part = items[first:end]
            n_groups = -(-len(part) // GROUP)
            blocks = {f"items_{start}": part[start:stop] for start, stop in block_bounds(len(part), part.shape[1] * 4)}
            one_by_one.append(BoundPass(_one_by_one(blocks, part.shape[1]), n_groups, blocks))
            together.append(BoundPass(_together(blocks, part.shape[1]), n_groups, blocks))
        self._one_by_one, self._together = Passes(one_by_one), Passes(together)

    def maxima(self, flat: NDArray[np.float32]) -> NDArray[np.float32]:
        passes = self._one_by_one if len(flat) <= _ONE_BY_ONE else self._together
        return passes.run({"queries": flat})

    def error(self, queries: NDArray[np.float32]) -> ScanError:
        return ScanError(rounding(queries, self._longest)[:, None], np.ones((1, 1)), np.ones(1))


def part_bounds(n_rows: int, n_parts: int) -> list[tuple[int, int]]:
    """First row and end of at most so many parts of about one size; every part but the last is made of whole groups."""
    step = -(-n_rows // (n_parts * GROUP)) * GROUP
    return [(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


def block_bounds(n_rows: int, row_bytes: int) -> list[tuple[int, int]]:
    """First row and end of each block; every block but the last is made of whole groups."""
    step = max(1, _BLOCK_BYTES // (row_bytes * GROUP)) * GROUP
    whole = n_rows // GROUP * GROUP
    bounds = [(start, min(start + step, whole)) for start in range(0, whole, step)]
    if whole < n_rows:
        bounds.append((whole, n_rows))
    return bounds


def _one_by_one(blocks: dict[str, NDArray[np.float32]], dim: int) -> bytes:
    """For each block as many products of a matrix and a vector as there are queries."""
    graph = _graph(blocks, dim)
    columns = graph.node("Reshape", ["queries", graph.constant("each", np.array([-1, dim, 1]))], "columns")
    parts = []
    for name, block in blocks.items():
        size = min(GROUP, len(block))
        shape = graph.constant(f"{name}_shape", np.array([-1, len(block) // size, size]))
        scores = graph.node("MatMul", [name, columns], f"{name}_scores")  # (n, rows, 1)
        grouped = graph.node("Reshape", [scores, shape], f"{name}_grouped")  # (n, groups, size)
        parts.append(graph.node("ReduceMax", [grouped], f"{name}_maxima", axes=[2], keepdims=0))
    graph.node("Concat", parts, "maxima", axis=1)
    return graph.model()


def _together(blocks: dict[str, NDArray[np.float32]], dim: int) -> bytes:
    """For each block one product of two matrices."""
    graph = _graph(blocks, dim)
    # Items times queries, not queries times items: the small matrix is the one that MatMul rearranges for each call.
    columns = graph.node("Transpose", ["queries"], "columns", perm=[1, 0])
    parts = []
    for name, block in blocks.items():
        size = min(GROUP, len(block))
        shape = graph.constant(f"{name}_shape", np.array([len(block) // size, size, -1]))
        scores = graph.node("MatMul", [name, columns], f"{name}_scores")  # (rows, n)
        grouped = graph.node("Reshape", [scores, shape], f"{name}_grouped")  # (groups, size, n)
        largest = graph.node("ReduceMax", [grouped], f"{name}_largest", axes=[1], keepdims=0)
        parts.append(graph.node("Transpose", [largest], f"{name}_maxima", perm=[1, 0]))
    graph.node("Concat", parts, "maxima", axis=1)
    return graph.model()


def _graph(blocks: dict[str, NDArray[np.float32]], dim: int) -> GraphWriter:
    graph = GraphWriter()
    graph.input("queries", "float32", ["n", dim])
    for name, block in blocks.items():
        graph.input(name, "float32", [len(block), dim])
    graph.output("maxima", "float32", ["n", "groups"])
    return graph
