"""A ranker in an engine process answers a front as it would in the front itself."""

from __future__ import annotations

import asyncio
import io
import time
from pathlib import Path

import numpy as np
import pytest
from napkin_ranker import napkin_ranker

from service.deadline import Deadline
from service.inference.engine import Operation, Row
from service.inference.local_engine import LocalEngine
from service.inference.ranker import RankRow
from service.inference.remote_engine import RemoteEngine
from service.inference.remote_owner import EngineOwner
from service.logs import make_logger
from service.metrics import Metrics
from service.served_ranker import ServedRanker
from service.settings import Settings

NONE = np.empty(0, np.int64)


async def test_a_ranker_behind_the_socket_orders_as_one_here(tmp_path: Path) -> None:
    ranker, _ = napkin_ranker(tmp_path)
    front_of_it = ServedRanker(ranker.artefact)
    log, metrics = make_logger(Settings(log_format="json"), io.BytesIO()), Metrics()
    local = LocalEngine(metrics, max_batch=4, max_waiting=9)
    local.start()
    owner = EngineOwner(local, [ranker], log)
    await owner.listen(tmp_path / "engine.sock")
    front = RemoteEngine(tmp_path / "engine.sock", [front_of_it], metrics, log, max_waiting=9)
    front.start()
    await asyncio.wait_for(front.until_connected(), 20)
    row = RankRow([2, 5], 0, [3, 1, 2], np.array([-20.0], np.float32))
    deadline = Deadline.start(20_000, time.monotonic())
    found = await front.run(front_of_it, "rank", row, 3, NONE, deadline)
    # logits: c 3; a 1, 10 more after e, 20 less by z: -9; b 2
    assert (found.items.tolist(), found.scores.tolist()) == ([0, 2, 1], [3.0, 2.0, -9.0])
    assert front_of_it.device == "napkin"  # told by the owner
    front.stop()
    owner.close()
    await asyncio.wait_for(owner.until_alone(), 20)


@pytest.mark.parametrize(
    ("operation", "row", "fault"),
    [
        ("rank", RankRow([5], 1, [1, 5], np.zeros(1, np.float32)), None),
        ("rank", RankRow([], 0, [1]), None),
        ("rank", RankRow([1], 0, [6]), "items 1 to 6 of 5"),
        ("rank", RankRow([0], 0, [1]), "items 0 to 1 of 5"),
        ("rank", RankRow([1], 2, [1]), "scenario 2 of 2"),
        ("rank", RankRow([1], 0, [1], np.zeros(3, np.float32)), "a z of 3, expected 1"),
        ("recommend", [1], "a history alone for a ranker"),
        ("rank", [1], "a history alone for a ranker"),
    ],
)
def test_what_would_fail_a_whole_batch_is_named(
    tmp_path: Path, operation: Operation, row: Row, fault: str | None
) -> None:
    ranker, _ = napkin_ranker(tmp_path)
    assert ranker.fault_of(operation, row) == fault
