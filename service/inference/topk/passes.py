"""Passes of ONNX Runtime over the item table, each of one call; several at the same time over parts of it.

Threads within an operator meet after each block of the table, a few hundred times a pass. Parts that are read by one
thread each meet once: 1M x 64 in 20 ms instead of 25 for one query and in 43 instead of 54 for 32 (two cores, where one
thread takes 28 and 78; `docs/decisions/0007`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.inference.runtime import import_onnxruntime, session_options


class BoundPass:
    """A graph whose large inputs are bound once and whose small ones come with each call. One call at a time.

    Args:
        model: the graph; its output is `maxima`, float32 (n, n_columns) for n rows of its inputs.
        fixed: inputs that stay, in place. The arrays must not move.
        prepack: let ONNX Runtime rearrange the constants of the graph, in a copy that replaces them.
    """

    def __init__(self, model: bytes, n_columns: int, fixed: dict[str, Any], *, prepack: bool = False) -> None:
        ort = import_onnxruntime()
        options = session_options(ort, 1)
        # The graph is written as it should run; and each size of batch would otherwise keep a memory plan of its own.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.disable_prepacking", "0" if prepack else "1")
        # Constants outside the arena, which grows by doubling and never shrinks.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        self._n_columns = n_columns
        self._value = ort.OrtValue.ortvalue_from_numpy
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        self._fixed = [self._value(block) for block in fixed.values()]  # shares the array's memory
        for name, value in zip(fixed, self._fixed, strict=True):
            self._binding.bind_ortvalue_input(name, value)
        self._one_at_a_time = threading.Lock()

    def run(self, inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The output; every input has a row for each of its rows."""
        n_rows = len(next(iter(inputs.values())))
        maxima = np.empty((n_rows, self._n_columns), np.float32)
        with self._one_at_a_time:
            for name, array in inputs.items():
                self._binding.bind_ortvalue_input(name, self._value(np.ascontiguousarray(array)))
            self._binding.bind_output("maxima", "cpu", 0, np.float32, maxima.shape, maxima.ctypes.data)
            self._session.run_with_iobinding(self._binding)
        return maxima


class Passes:
    """Passes over parts of one table, all at the same time: one in the caller's thread, the others in their own."""

    def __init__(self, passes: Sequence[BoundPass]) -> None:
        *self._others, self._last = passes
        self._threads = ThreadPoolExecutor(len(self._others), "scan") if self._others else None

    def run(self, inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The outputs side by side, in the order of the parts."""
        if self._threads is None:
            return self._last.run(inputs)
        begun = [self._threads.submit(each.run, inputs) for each in self._others]
        last = self._last.run(inputs)
        return np.concatenate([*(each.result() for each in begun), last], axis=1)
