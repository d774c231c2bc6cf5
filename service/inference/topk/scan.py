"""One pass over the whole table: the largest score in each group of consecutive items, for every query at once.

The pass is one call of ONNX Runtime, not a loop in Python: between two steps of a loop the event loop would take the
interpreter's lock, and a scan of 100 steps would wait for it 100 times. Inside the graph the table is read in blocks
whose scores stay in cache; only the maxima leave it. The blocks are bound inputs that point into the table, so nothing
is copied (an initializer would be, and a prepacked MatMul would copy it once more).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.inference.runtime import import_onnxruntime, session_options
from service.inference.topk.exact import largest_norm, rounding
from service.inference.topk.onnx_graph import GraphWriter

GROUP = 16

# Bytes of a block: with its scores it fits the second-level cache, and a MatMul is long enough to be worth its call.
_BLOCK_BYTES = 1 << 20


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

    `per_row` is (batch, parts), `per_group` (n_groups, parts) or (1, parts) where all groups are alike.
    """

    per_row: NDArray[np.float64]
    per_group: NDArray[np.float64]

    def largest(self) -> NDArray[np.float64]:
        """(batch,) the bound that holds for every group."""
        return np.asarray(self.per_row @ self.per_group.max(axis=0))

    def of(self, rows: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
        """(pairs,) the bound of each pair."""
        alike = len(self.per_group) == 1
        per_group = self.per_group[0] if alike else self.per_group[groups]
        return np.asarray((self.per_row[rows] * per_group).sum(axis=1))


class FloatScan:
    """`Scan` in float32 over the table as it lies in memory.

    Args:
        items: float32 (n_items + 1, dim), C order. Read in place, never copied.
        threads: threads of one pass.
    """

    def __init__(self, items: NDArray[np.float32], threads: int) -> None:
        self.n_groups = -(-len(items) // GROUP)
        self._longest = largest_norm(items)
        blocks = {f"items_{start}": items[start:end] for start, end in block_bounds(len(items), items.shape[1] * 4)}
        self._pass = BoundPass(_float_graph(blocks, items.shape[1]), threads, blocks)

    def maxima(self, flat: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._pass.run({"queries": flat}, (len(flat), self.n_groups))

    def error(self, queries: NDArray[np.float32]) -> ScanError:
        return ScanError(rounding(queries, self._longest)[:, None], np.ones((1, 1)))


class BoundPass:
    """A graph whose large inputs are bound once and whose small ones come with each call. One call at a time.

    Args:
        model: the graph; its output is `maxima`, float32.
        fixed: inputs that stay, in place. The arrays must not move.
        prepack: let ONNX Runtime rearrange the constants of the graph, in a copy that replaces them.
    """

    def __init__(self, model: bytes, threads: int, fixed: dict[str, Any], *, prepack: bool = False) -> None:
        ort = import_onnxruntime()
        options = session_options(ort, threads)
        # The graph is written as it should run; and each size of batch would otherwise keep a memory plan of its own.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.disable_prepacking", "0" if prepack else "1")
        # Constants outside the arena, which grows by doubling and never shrinks.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        self._value = ort.OrtValue.ortvalue_from_numpy
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        self._fixed = [self._value(block) for block in fixed.values()]  # shares the array's memory
        for name, value in zip(fixed, self._fixed, strict=True):
            self._binding.bind_ortvalue_input(name, value)
        self._one_at_a_time = threading.Lock()

    def run(self, inputs: dict[str, NDArray[Any]], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The output, of that shape."""
        maxima = np.empty(shape, np.float32)
        with self._one_at_a_time:
            for name, array in inputs.items():
                self._binding.bind_ortvalue_input(name, self._value(np.ascontiguousarray(array)))
            self._binding.bind_output("maxima", "cpu", 0, np.float32, shape, maxima.ctypes.data)
            self._session.run_with_iobinding(self._binding)
        return maxima


def block_bounds(n_rows: int, row_bytes: int) -> list[tuple[int, int]]:
    """First row and end of each block; every block but the last is made of whole groups."""
    step = max(1, _BLOCK_BYTES // (row_bytes * GROUP)) * GROUP
    whole = n_rows // GROUP * GROUP
    bounds = [(start, min(start + step, whole)) for start in range(0, whole, step)]
    if whole < n_rows:
        bounds.append((whole, n_rows))
    return bounds


def _float_graph(blocks: dict[str, NDArray[np.float32]], dim: int) -> bytes:
    graph = GraphWriter()
    graph.input("queries", "float32", ["n", dim])
    graph.output("maxima", "float32", ["n", "groups"])
    # Items times queries, not queries times items: the small matrix is the one that MatMul rearranges for each call.
    columns = graph.node("Transpose", ["queries"], "columns", perm=[1, 0])
    parts = []
    for name, block in blocks.items():
        graph.input(name, "float32", [len(block), dim])
        size = min(GROUP, len(block))
        shape = graph.constant(f"{name}_shape", np.array([len(block) // size, size, -1]))
        scores = graph.node("MatMul", [name, columns], f"{name}_scores")  # (rows, n)
        grouped = graph.node("Reshape", [scores, shape], f"{name}_grouped")  # (groups, size, n)
        largest = graph.node("ReduceMax", [grouped], f"{name}_largest", axes=[1], keepdims=0)
        parts.append(graph.node("Transpose", [largest], f"{name}_maxima", perm=[1, 0]))
    graph.node("Concat", parts, "maxima", axis=1)
    return graph.model()
