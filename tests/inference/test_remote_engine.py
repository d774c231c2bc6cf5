"""An engine behind a socket answers, refuses and fails as one in the process; when it goes, everybody hears at once.

The model is three items long: its best are always 3, 2, 1, scored by the length of the row.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from service.deadline import Deadline
from service.errors import DeadlineExceeded, EngineUnavailable, ModelFailed, Overloaded
from service.inference.engine import Operation, Ranked
from service.inference.ranker import RankRow
from service.inference.remote_engine import RemoteEngine
from service.inference.remote_frames import MAX_PAYLOAD, frame, pack_ask, pack_hello, pack_rank
from service.inference.remote_owner import EngineOwner
from service.logs import Logger, make_logger
from service.metrics import Metrics
from service.settings import Settings

LIMIT_S = 20.0
NONE = np.empty(0, np.int64)


@dataclass
class ThreeItems:
    label: str = "three@1"
    sha256: str = "ab" * 32
    device: str = "CPUExecutionProvider"
    top_k: str = "approximate"
    top_k_recall: float | None = 0.75
    operations: tuple[Operation, ...] = ("recommend", "similar", "explain")

    def fault_of(self, operation: Operation, row: Any) -> str | None:
        if operation not in self.operations:
            return f"operation {operation}"
        items = [*row.history, *row.candidates] if isinstance(row, RankRow) else row
        return None if set(items) <= {1, 2, 3} else f"items {items} of 3"

    def search(
        self, operation: Operation, rows: Sequence[Sequence[int]], k: int, excluded: Sequence[NDArray[np.int64]]
    ) -> Any:
        raise AssertionError("asked through the engine alone")


def a_ranker() -> ThreeItems:
    return ThreeItems("ranker@1", operations=("rank",))


@dataclass
class ScriptedEngine:
    """Answers at once, or as told; notes what it was asked and whether the asker left."""

    asked: list[tuple[Any, ...]] = field(default_factory=list)
    fault: Exception | None = None
    hold: asyncio.Event | None = None
    left: int = 0
    n_waiting: int = 0

    def start(self) -> None: ...

    def stop(self) -> None: ...

    async def run(
        self,
        model: Any,
        operation: Operation,
        row: Any,
        k: int,
        excluded: NDArray[np.int64],
        deadline: Deadline,
        *,
        bulk: bool = False,
    ) -> Ranked:
        items = row.candidates if isinstance(row, RankRow) else row
        self.asked.append((model.label, operation, row, k, excluded.tolist(), bulk, deadline))
        if self.hold is not None:
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.left += 1
                raise
        if self.fault is not None:
            raise self.fault
        return Ranked(np.array([3, 2, 1][:k]), np.full(min(k, 3), len(items), np.float32), 0.5, 0.25)


@dataclass
class Pair:
    """An owner and one front of it."""

    path: Path
    engine: ScriptedEngine
    owner: EngineOwner
    front: RemoteEngine
    metrics: Metrics
    changes: list[bool]
    logged: io.BytesIO
    log: Logger

    async def ask(self, *row: int, k: int = 2, budget_ms: float = 20_000, bulk: bool = False, **kwargs: Any) -> Ranked:
        deadline = Deadline.start(budget_ms, time.monotonic())
        return await self.front.run(
            ThreeItems(),
            kwargs.get("operation", "recommend"),
            row,
            k,
            kwargs.get("excluded", NONE),
            deadline,
            bulk=bulk,
        )

    def events(self) -> list[str]:
        return [orjson.loads(line)["event"] for line in self.logged.getvalue().splitlines()]


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not holds():  # noqa: ASYNC110 - what is looked at belongs to the code under test
            await asyncio.sleep(0.001)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    logged, changes, metrics = io.BytesIO(), [], Metrics()
    log = make_logger(Settings(log_format="json"), logged)
    path, engine = tmp_path / "engine.sock", ScriptedEngine()
    owner = EngineOwner(engine, [ThreeItems("other@1"), ThreeItems(), a_ranker()], log)
    await owner.listen(path)
    front = RemoteEngine(path, [ThreeItems(), a_ranker()], metrics, log, max_waiting=3, on_change=changes.append)
    front.start()
    async with asyncio.timeout(LIMIT_S):
        await front.until_connected()
    yield Pair(path, engine, owner, front, metrics, changes, logged, log)
    front.stop()
    owner.close()
    async with asyncio.timeout(LIMIT_S):
        await owner.until_alone()


async def test_a_question_crosses_with_everything_it_says(pair: Pair) -> None:
    ranked = await pair.ask(1, 3, k=2, operation="similar", excluded=np.array([2]), bulk=True)

    assert (ranked.items.tolist(), ranked.scores.tolist()) == ([3, 2], [2.0, 2.0])
    assert (ranked.queue_ms, ranked.infer_ms) == (0.5, 0.25)
    (*asked, deadline) = pair.engine.asked[0]
    assert asked == ["three@1", "similar", [1, 3], 2, [2], True]
    assert 0 < deadline.left_s < 20


async def test_candidates_cross_with_everything_that_is_known_of_the_asker(pair: Pair) -> None:
    deadline = Deadline.start(5_000, time.monotonic())
    row = RankRow([1, 3], 4, [2, 3], np.array([0.5, -0.5], np.float32))
    ranked = await pair.front.run(a_ranker(), "rank", row, 2, NONE, deadline, bulk=True)

    assert (ranked.items.tolist(), ranked.scores.tolist()) == ([3, 2], [2.0, 2.0])
    label, operation, heard, k, excluded, bulk, there = pair.engine.asked[0]
    assert (label, operation, k, excluded, bulk, there.ends_at) == ("ranker@1", "rank", 2, [], True, deadline.ends_at)
    assert (heard.history, heard.scenario_index, heard.candidates) == ([1, 3], 4, [2, 3])
    assert heard.user_z.tolist() == [0.5, -0.5]

    await pair.front.run(a_ranker(), "rank", RankRow([], 0, [1]), 1, NONE, deadline)
    nobody = pair.engine.asked[1][2]
    assert (nobody.history, nobody.user_z) == ([], None)


async def test_the_deadline_on_the_other_side_is_the_same_moment(pair: Pair) -> None:
    deadline = Deadline.start(5_000, time.monotonic())
    await pair.front.run(ThreeItems(), "recommend", [1], 1, NONE, deadline)
    there = pair.engine.asked[0][-1]
    assert (there.ends_at, there.granted_ms) == (deadline.ends_at, 5_000)


async def test_answers_find_their_askers_in_any_order(pair: Pair) -> None:
    pair.engine.hold = asyncio.Event()
    rows = ([1], [1, 2], [1, 2, 3])
    asking = [asyncio.create_task(pair.ask(*row)) for row in rows]
    await until(lambda: len(pair.engine.asked) == 3)
    pair.engine.hold.set()

    assert [(await task).scores[0] for task in asking] == [1, 2, 3]
    assert pair.front.n_waiting == 0


@pytest.mark.parametrize(
    "fault",
    [Overloaded("full", retry_after_s=2), DeadlineExceeded("late"), ModelFailed("broken")],
    ids=lambda f: f.code,
)
async def test_what_the_engine_says_no_with_is_what_the_asker_hears(pair: Pair, fault: Any) -> None:
    pair.engine.fault = fault
    with pytest.raises(type(fault)) as heard:
        await pair.ask(1)

    assert (heard.value.detail, heard.value.retry_after_s) == (fault.detail, fault.retry_after_s)


async def test_a_budget_that_ends_is_not_waited_for(pair: Pair) -> None:
    pair.engine.hold = asyncio.Event()
    with pytest.raises(DeadlineExceeded):
        await pair.ask(1, budget_ms=20)

    assert pair.front.n_waiting == 0
    with pytest.raises(DeadlineExceeded, match="before the model"):
        await pair.ask(1, budget_ms=1)
    assert len(pair.engine.asked) == 1


async def test_whoever_leaves_leaves_the_queue_of_the_owner_too(pair: Pair) -> None:
    pair.engine.hold = asyncio.Event()
    asking = asyncio.create_task(pair.ask(1))
    await until(lambda: pair.engine.asked)
    asking.cancel()

    await until(lambda: pair.engine.left == 1)
    assert pair.front.n_waiting == 0


async def test_more_than_may_wait_is_refused_here_and_bulk_keeps_nobody_else_out(pair: Pair) -> None:
    pair.engine.hold = asyncio.Event()
    bulk = [asyncio.create_task(pair.ask(1, bulk=True)) for _ in range(3)]
    await until(lambda: len(pair.engine.asked) == 3)
    with pytest.raises(Overloaded):
        await pair.ask(1, bulk=True)
    single = asyncio.create_task(pair.ask(1))
    await until(lambda: len(pair.engine.asked) == 4)
    pair.engine.hold.set()

    assert len(await asyncio.gather(single, *bulk)) == 4
    assert pair.metrics.registry.get_sample_value("afterglow_shed_total", {"reason": "queue_full"}) == 1


async def test_an_owner_that_does_not_read_fills_nothing(pair: Pair) -> None:
    """The socket's buffers fill, then requests are refused at once; nothing grows."""
    pair.front._max_waiting = 10_000
    (fronts,) = pair.owner._fronts
    fronts._transport.pause_reading()  # type: ignore[union-attr]
    large = np.arange(200_000)
    asking: list[asyncio.Task[Ranked]] = []

    async def fill() -> None:
        while True:
            asking.append(asyncio.create_task(pair.ask(1, excluded=large)))
            await asyncio.sleep(0)
            if asking[-1].done():
                asking[-1].result()

    with pytest.raises(Overloaded):
        await fill()
    for task in asking:
        task.cancel()
    assert len(asking) < 20  # a socket holds some hundred kB, we hold 1 MiB


async def test_when_the_owner_goes_everybody_hears_and_when_it_is_back_it_is_asked_again(pair: Pair) -> None:
    pair.engine.hold = asyncio.Event()
    asking = [asyncio.create_task(pair.ask(1)) for _ in range(2)]
    await until(lambda: len(pair.engine.asked) == 2)
    pair.owner.close()

    for task in asking:
        with pytest.raises(EngineUnavailable, match="went away"):
            await task
    await until(lambda: pair.changes == [True, False])
    with pytest.raises(EngineUnavailable, match="is away"):
        await pair.ask(1)

    pair.engine.hold = None
    again = EngineOwner(pair.engine, [ThreeItems(), a_ranker()], pair.log)  # its place has changed
    await again.listen(pair.path)
    await until(lambda: pair.changes == [True, False, True])
    assert (await pair.ask(1)).items.tolist() == [3, 2]
    again.close()
    await until(lambda: len(pair.changes) == 4)


@pytest.mark.parametrize(
    "model",
    [ThreeItems(label="three@2"), ThreeItems(sha256="cd" * 32)],
    ids=["another version", "another digest"],
)
async def test_an_owner_with_another_model_is_not_talked_to(pair: Pair, model: ThreeItems) -> None:
    changes: list[bool] = []
    front = RemoteEngine(pair.path, [model], pair.metrics, pair.log, max_waiting=3, on_change=changes.append)
    front.start()
    await until(lambda: "engine_has_other_models" in pair.events())
    front.stop()

    assert changes == []


async def test_the_owner_says_how_its_models_run(pair: Pair) -> None:
    model = ThreeItems(device="unknown", top_k="unknown", top_k_recall=None)
    front = RemoteEngine(pair.path, [model], pair.metrics, pair.log, max_waiting=3)
    front.start()
    await front.until_connected()
    front.stop()

    assert (model.device, model.top_k, model.top_k_recall) == ("CPUExecutionProvider", "approximate", 0.75)


def an_ask(**changed: Any) -> bytes:
    fields = {"id_": 1, "model": 1, "operation": "recommend", "row": [1], "k": 2, "excluded": NONE}
    return pack_ask(**(fields | changed), deadline=Deadline.start(1_000, time.monotonic()), bulk=False)


@pytest.mark.parametrize(
    "bytes_",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        (MAX_PAYLOAD + 1).to_bytes(4, "little") + b"\2\0\0\0",
        frame(2, b"short"),
        frame(4, b""),
        an_ask(model=3),
        an_ask(row=[4]),
        an_ask(row=[0]),
        an_ask(model=2),
        pack_rank(1, 1, RankRow([1], 0, [1]), Deadline.start(1_000, time.monotonic()), bulk=False),
        pack_rank(1, 2, RankRow([1], 0, [4]), Deadline.start(1_000, time.monotonic()), bulk=False),
    ],
    ids=[
        "another protocol",
        "oversized",
        "cut off",
        "a frame of the owner's",
        "no such model",
        "no such item",
        "padding",
        "a history alone for a ranker",
        "candidates for a retriever",
        "no such candidate",
    ],
)
async def test_garbage_ends_the_connection_with_a_line_in_the_log_and_nobody_elses(pair: Pair, bytes_: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(str(pair.path))
    writer.write(bytes_)
    async with asyncio.timeout(LIMIT_S):
        try:
            while await reader.read(4096):
                pass  # the greeting
        except ConnectionResetError:
            pass
    writer.close()

    assert pair.events().count("front_frame_refused") == 1
    assert (await pair.ask(1)).items.tolist() == [3, 2]
    assert pair.engine.asked[-1][2] == [1]


@pytest.mark.parametrize(
    "bytes_", [b"220 mail.example ESMTP\r\n", pack_hello([], version=9), frame(4, b"cut off")], ids=["mail", "9", "cut"]
)
async def test_an_owner_that_talks_garbage_is_left_with_a_line_in_the_log(tmp_path: Path, bytes_: bytes) -> None:
    logged, path, changes, heard = io.BytesIO(), tmp_path / "strange.sock", [], asyncio.Event()
    log = make_logger(Settings(log_format="json"), logged)

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes_)
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        writer.close()
        heard.set()

    server = await asyncio.start_unix_server(greet, str(path))
    front = RemoteEngine(path, [ThreeItems()], Metrics(), log, max_waiting=3, on_change=changes.append)
    front.start()
    await until(lambda: b"engine_frame_refused" in logged.getvalue())
    front.stop()
    async with asyncio.timeout(LIMIT_S):
        await heard.wait()
    server.close()

    assert changes == []
