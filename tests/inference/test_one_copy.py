"""What a top-k backend adds to the one copy of the table that the page cache holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.inference.topk import Backend, TopK, make_topk

TABLE_MB = 200_001 * 64 * 4 / 1e6


def private_mb() -> float:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError("the kernel does not tell Private_Dirty")


@pytest.fixture
def grown(tmp_path: Path) -> Callable[[Backend], float]:
    """Megabytes that become private while a backend is made over a mapped table and used."""
    table = np.lib.format.open_memmap(tmp_path / "items.npy", "w+", np.float32, (200_001, 64))
    table[:] = np.random.default_rng(1).standard_normal(table.shape, dtype=np.float32)
    table.flush()
    del table

    def measure(backend: Backend) -> float:
        items = np.load(tmp_path / "items.npy", mmap_mode="r")
        available = np.ones(len(items), np.bool_)
        before = private_mb()
        topk: TopK = make_topk(backend, items, available)
        topk.search(np.ones((4, 1, 64), np.float32), 20, [np.empty(0, np.int64)] * 4)
        return private_mb() - before

    return measure


def test_a_scan_of_a_large_table_copies_none_of_it(grown: Callable[[Backend], float]) -> None:
    assert grown("scan") < TABLE_MB / 2


def test_int8_adds_less_than_the_table_itself(grown: Callable[[Backend], float]) -> None:
    assert grown("int8") + 5 > TABLE_MB / 4
    assert grown("int8") < TABLE_MB


def test_this_measure_sees_a_copy_where_there_is_one(grown: Callable[[Backend], float]) -> None:
    assert grown("in-graph") > TABLE_MB * 0.9
