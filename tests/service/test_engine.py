from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from napkin import ManualClock
from numpy.typing import NDArray

from service.deadline import Deadline
from service.errors import DeadlineExceeded, ModelFailed, Overloaded
from service.inference import patience
from service.inference.engine import Operation
from service.inference.local_engine import LocalEngine
from service.metrics import Metrics

NONE: NDArray[np.int64] = np.empty(0, np.int64)


class Model:
    """Says each row's items back, in order; asked for similar items it fails.

    `gate` holds the run until it is opened; `batches` notes the rows.
    """

    label = "model@1"
    top_k_fallbacks = 0

    def __init__(self, after: Callable[[], None] = lambda: None) -> None:
        self.batches: list[list[Sequence[int]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Event()
        self.after = after

    def search(
        self, operation: Operation, rows: Sequence[Sequence[int]], k: int, excluded: Sequence[NDArray[np.int64]]
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        if operation == "similar":
            raise ZeroDivisionError
        self.batches.append(list(rows))
        self.running.set()
        assert self.gate.wait(10)
        self.after()
        return [(np.array(row[:k], np.int64), np.zeros(len(row[:k]), np.float32)) for row in rows]

    async def until_running(self) -> None:
        """Returns when a run is held at the gate."""
        await asyncio.to_thread(self.running.wait, 10)


class Slow:
    """Takes 10 ms a row."""

    label = "model@1"
    top_k_fallbacks = 0

    def __init__(self, clock: ManualClock) -> None:
        self.clock, self.runs = clock, list[tuple[Operation, int]]()

    def search(self, operation: Operation, rows: Any, k: int, excluded: Any) -> Any:
        self.runs.append((operation, len(rows)))
        self.clock.advance(0.01 * len(rows))
        return [(NONE, NONE)] * len(rows)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def make(clock: ManualClock) -> AsyncIterator[Callable[..., LocalEngine]]:
    made: list[LocalEngine] = []

    def start(**limits: int) -> LocalEngine:
        engine = LocalEngine(Metrics(), **{"max_batch": 4, "max_waiting": 100, **limits}, clock=clock)
        engine.start()
        made.append(engine)
        return engine

    yield start
    for engine in made:
        engine.stop()


def ample(clock: ManualClock) -> Deadline:
    return Deadline.start(60_000, clock(), clock)


async def ask(engine: LocalEngine, model: Model, row: list[int], deadline: Deadline, **options: Any) -> list[int]:
    return (await engine.run(model, "recommend", row, options.pop("k", 10), NONE, deadline, **options)).items.tolist()


async def held(engine: LocalEngine, model: Model, deadline: Deadline) -> asyncio.Task[list[int]]:
    """Occupies the engine with a run that waits at the gate."""
    model.gate.clear()
    model.running.clear()
    task = asyncio.create_task(ask(engine, model, [99], deadline))
    await model.until_running()
    return task


async def queued(count: int, engine: LocalEngine, coroutines: Sequence[Any]) -> list[asyncio.Task[Any]]:
    """Starts the coroutines and returns once `count` of them stand in the queue."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    while engine.n_waiting < count:  # noqa: ASYNC110  the queue tells nobody when it grows
        await asyncio.sleep(0)
    return tasks


async def test_each_caller_gets_the_answer_to_its_own_row(make: Callable[..., LocalEngine], clock: ManualClock) -> None:
    engine, model = make(), Model()

    answers = await asyncio.gather(*(ask(engine, model, [n, n + 1], ample(clock)) for n in range(20)))

    assert answers == [[n, n + 1] for n in range(20)]


async def test_an_idle_engine_runs_a_lone_request_at_once(make: Callable[..., LocalEngine], clock: ManualClock) -> None:
    engine, model = make(), Model()

    await ask(engine, model, [1], ample(clock))

    assert model.batches == [[[1]]]


async def test_callers_that_come_back_at_once_are_answered_together(
    make: Callable[..., LocalEngine], clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The clock stands between runs, so that everybody is back at once; a wait would last for a minute.
    monkeypatch.setattr(patience, "_LONGEST_S", 60.0)
    engine, model = make(), Model(after=lambda: clock.advance(240))
    for _ in range(2):
        await asyncio.gather(*(ask(engine, model, [n], Deadline.start(10**7, clock(), clock)) for n in (1, 2)))

    first = await queued(1, engine, [ask(engine, model, [1], Deadline.start(10**7, clock(), clock))])
    second = asyncio.create_task(ask(engine, model, [2], Deadline.start(10**7, clock(), clock)))

    assert await asyncio.gather(*first, second) == [[1], [2]]
    assert model.batches == [[[1], [2]]] * 3


async def test_nobody_is_waited_for_where_a_run_is_full_already(
    make: Callable[..., LocalEngine], clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 240 s a row: a budget of 1,500 s bears runs of two (2.5 times a run of one), though a batch may hold four.
    monkeypatch.setattr(patience, "_LONGEST_S", 60.0)
    engine = make(max_batch=4)
    model = Model(after=lambda: clock.advance(240 * len(model.batches[-1])))

    async def asked(n: int) -> list[int]:
        return await ask(engine, model, [n], Deadline.start(1_500_000, clock(), clock))

    await asked(1)
    await asyncio.gather(asked(1), asked(2))  # back at once, and so waited for from now on
    model.gate.clear()
    model.running.clear()
    first = [asyncio.create_task(asked(n)) for n in (3, 4)]
    await model.until_running()
    others = await queued(2, engine, [asked(1), asked(2)])
    model.gate.set()

    async with asyncio.timeout(30):  # four would be everybody, and waited for
        assert await asyncio.gather(*first, *others) == [[3], [4], [1], [2]]
    assert model.batches[-2:] == [[[3], [4]], [[1], [2]]]


async def test_a_caller_that_came_back_alone_is_answered_when_the_wait_ends(
    make: Callable[..., LocalEngine], clock: ManualClock
) -> None:
    engine, model = make(), Model(after=lambda: clock.advance(0.004))
    for _ in range(2):
        await asyncio.gather(*(ask(engine, model, [n], ample(clock)) for n in (1, 2)))

    assert await ask(engine, model, [1], ample(clock)) == [1]
    assert model.batches == [[[1], [2]]] * 2 + [[[1]]]


async def test_what_waits_is_taken_together_up_to_the_batch(
    make: Callable[..., LocalEngine], clock: ManualClock
) -> None:
    engine, model = make(max_batch=4), Model()
    first = await held(engine, model, ample(clock))
    others = await queued(6, engine, [ask(engine, model, [n], ample(clock)) for n in range(6)])

    model.gate.set()
    await asyncio.gather(first, *others)

    assert model.batches == [[[99]], [[0], [1], [2], [3]], [[4], [5]]]


async def test_each_caller_gets_as_many_as_it_asked_for(make: Callable[..., LocalEngine], clock: ManualClock) -> None:
    engine, model = make(), Model()
    first = await held(engine, model, ample(clock))
    tasks = await queued(2, engine, [ask(engine, model, [1, 2, 3, 4], ample(clock), k=k) for k in (1, 3)])

    model.gate.set()
    await first

    assert await asyncio.gather(*tasks) == [[1], [1, 2, 3]]


async def test_requests_of_different_models_never_share_a_run(
    make: Callable[..., LocalEngine], clock: ManualClock
) -> None:
    engine, model, other = make(), Model(), Model()
    first = await held(engine, model, ample(clock))
    coroutines = [ask(engine, one, [n], ample(clock)) for n, one in enumerate([model, other, model, other])]
    others = await queued(4, engine, coroutines)

    model.gate.set()
    await asyncio.gather(first, *others)

    assert model.batches[1:] == [[[0], [2]]]
    assert other.batches == [[[1], [3]]]


async def test_bulk_work_fills_only_what_others_leave(make: Callable[..., LocalEngine], clock: ManualClock) -> None:
    engine, model = make(max_batch=2), Model()
    first = await held(engine, model, ample(clock))
    bulk = await queued(2, engine, [ask(engine, model, [n], ample(clock), bulk=True) for n in (1, 2)])
    urgent = await queued(3, engine, [ask(engine, model, [7], ample(clock))])

    model.gate.set()
    await asyncio.gather(first, *bulk, *urgent)

    assert model.batches[1:] == [[[7], [1]], [[2]]]


async def test_a_request_whose_deadline_passed_in_the_queue_is_not_scored(
    make: Callable[..., LocalEngine], clock: ManualClock
) -> None:
    engine, model = make(), Model()
    first = await held(engine, model, ample(clock))
    (late,) = await queued(1, engine, [ask(engine, model, [5], Deadline.start(10_000, clock(), clock))])

    clock.advance(10)
    model.gate.set()
    await first

    with pytest.raises(DeadlineExceeded):
        await late
    assert model.batches == [[[99]]]


async def test_waiting_ends_with_the_deadline_and_the_run_goes_on(
    make: Callable[..., LocalEngine], clock: ManualClock
) -> None:
    engine, model = make(), Model()
    model.gate.clear()
    model.running.clear()

    asyncio.get_running_loop().call_later(0.01, clock.advance, 1)

    with pytest.raises(DeadlineExceeded):
        await ask(engine, model, [1], Deadline.start(20, clock(), clock))

    model.gate.set()
    assert await ask(engine, model, [2], ample(clock)) == [2]
    assert model.batches == [[[1]], [[2]]]


async def test_a_spent_deadline_is_refused_without_a_run(make: Callable[..., LocalEngine], clock: ManualClock) -> None:
    engine, model = make(), Model()

    with pytest.raises(DeadlineExceeded):
        await ask(engine, model, [1], Deadline.start(4, clock(), clock))

    assert model.batches == []


async def test_a_full_queue_refuses_at_once(make: Callable[..., LocalEngine], clock: ManualClock) -> None:
    engine, model = make(max_waiting=2), Model()
    first = await held(engine, model, ample(clock))
    others = await queued(2, engine, [ask(engine, model, [n], ample(clock)) for n in range(2)])

    with pytest.raises(Overloaded) as refusal:
        await ask(engine, model, [3], ample(clock))

    assert refusal.value.retry_after_s == 1
    model.gate.set()
    await asyncio.gather(first, *others)


async def test_bulk_work_keeps_nobody_else_out(make: Callable[..., LocalEngine], clock: ManualClock) -> None:
    engine, model = make(max_waiting=2, max_batch=10), Model()
    first = await held(engine, model, ample(clock))
    bulk = await queued(2, engine, [ask(engine, model, [n], ample(clock), bulk=True) for n in range(2)])

    with pytest.raises(Overloaded):
        await ask(engine, model, [3], ample(clock), bulk=True)
    urgent = await queued(3, engine, [ask(engine, model, [4], ample(clock))])

    model.gate.set()
    assert await asyncio.gather(first, *bulk, *urgent) == [[99], [0], [1], [4]]


async def test_a_wait_that_does_not_fit_the_budget_is_refused_at_once(
    make: Callable[..., LocalEngine], clock: ManualClock
) -> None:
    engine, model = make(max_batch=1), Model(after=lambda: clock.advance(0.1))
    await ask(engine, model, [1], ample(clock))  # now a run is known to take 100 ms
    first = await held(engine, model, ample(clock))
    others = await queued(1, engine, [ask(engine, model, [2], ample(clock))])

    # One running, one waiting that counts double, and its own: 400 ms.
    with pytest.raises(Overloaded):
        await ask(engine, model, [3], Deadline.start(390, clock(), clock))
    others += await queued(2, engine, [ask(engine, model, [4], Deadline.start(410, clock(), clock))])

    model.gate.set()
    await asyncio.gather(first, *others)
    assert model.batches == [[[1]], [[99]], [[2]], [[4]]]


async def test_an_idle_engine_refuses_what_cannot_fit_until_the_estimate_is_old(
    make: Callable[..., LocalEngine], clock: ManualClock
) -> None:
    engine, model = make(), Model(after=lambda: clock.advance(0.2))
    await ask(engine, model, [1], ample(clock))  # now a run is known to take 200 ms
    model.after = lambda: None

    with pytest.raises(Overloaded):
        await ask(engine, model, [2], Deadline.start(100, clock(), clock))

    clock.advance(0.1)
    assert await ask(engine, model, [3], Deadline.start(100, clock(), clock)) == [3]


async def test_a_caller_that_goes_away_leaves_the_queue(make: Callable[..., LocalEngine], clock: ManualClock) -> None:
    engine, model = make(), Model()
    first = await held(engine, model, ample(clock))
    gone, *others = await queued(3, engine, [ask(engine, model, [n], ample(clock)) for n in (1, 2, 3)])

    gone.cancel()
    await asyncio.wait([gone])
    model.gate.set()
    await asyncio.gather(first, *others)

    assert model.batches == [[[99]], [[2], [3]]]


async def test_a_batch_holds_no_more_rows_than_its_tightest_budget_bears(
    make: Callable[..., LocalEngine], clock: ManualClock
) -> None:
    engine, model = make(max_batch=4), Model(after=lambda: clock.advance(0.01))
    engine.warm([Slow(clock)])  # 10 ms a row: 10, 20 and 40 ms for 1, 2 and 4
    first = await held(engine, model, ample(clock))
    tight = Deadline.start(80, clock(), clock)  # a run may take a third of it: 2 rows
    others = await queued(4, engine, [ask(engine, model, [n], tight if n == 1 else ample(clock)) for n in range(4)])

    model.gate.set()
    await asyncio.gather(first, *others)

    assert model.batches[1:] == [[[0], [1]], [[2], [3]]]


@pytest.mark.parametrize("others", [0, 2])
async def test_who_would_be_late_at_the_end_of_a_run_is_left_out_of_it_unless_alone(
    make: Callable[..., LocalEngine], clock: ManualClock, others: int
) -> None:
    engine, model = make(max_batch=4), Model(after=lambda: clock.advance(0.01))
    engine.warm([Slow(clock)])  # 10 ms a row: 10 and 40 ms for 1 and 3
    first = await held(engine, model, ample(clock))
    hopeless, *rest = await queued(
        1 + others,
        engine,
        [
            ask(engine, model, [0], Deadline.start(10_000, clock(), clock)),
            *(ask(engine, model, [n], ample(clock)) for n in range(1, 1 + others)),
        ],
    )

    clock.advance(9.985)  # 5 ms are left when the run that is held has ended
    model.gate.set()
    await asyncio.gather(first, *rest)

    if others:
        with pytest.raises(DeadlineExceeded):
            await hopeless
        assert model.batches[1:] == [[[1], [2]]]  # and not one row alone, for which 5 ms are too short as well
    else:
        assert await hopeless == [0]  # only a run can correct the estimate


async def test_before_the_first_request_every_size_of_batch_has_run_the_largest_first(clock: ManualClock) -> None:
    engine, model = LocalEngine(Metrics(), max_batch=6, max_waiting=1, clock=clock), Slow(clock)

    engine.warm([model])

    assert [n_rows for operation, n_rows in model.runs if operation == "recommend"] == [6] * 3 + [3] * 3 + [1] * 3
    assert engine._pace(model, "recommend").of(1) == pytest.approx(0.01)


async def test_a_model_that_fails_fails_its_requests_and_no_others(
    make: Callable[..., LocalEngine], clock: ManualClock
) -> None:
    engine, model = make(), Model()

    with pytest.raises(ModelFailed) as failure:
        await engine.run(model, "similar", [1], 10, NONE, ample(clock))

    assert isinstance(failure.value.__cause__, ZeroDivisionError)
    assert await ask(engine, model, [2], ample(clock)) == [2]


async def test_a_stopped_engine_finishes_its_run_first(clock: ManualClock) -> None:
    engine, model = LocalEngine(Metrics(), max_batch=4, max_waiting=10, clock=clock), Model()
    engine.start()
    task = await held(engine, model, ample(clock))

    stopping = asyncio.create_task(asyncio.to_thread(engine.stop))
    model.gate.set()
    await stopping

    assert await task == [99]


async def test_answers_that_top_k_left_to_a_slower_way_are_counted_by_model(clock: ManualClock) -> None:
    model, metrics = Model(), Metrics()
    model.after = lambda: setattr(model, "top_k_fallbacks", 3)
    engine = LocalEngine(metrics, max_batch=4, max_waiting=100, clock=clock)
    engine.start()
    for row in ([1], [2]):
        await ask(engine, model, row, ample(clock))
    engine.stop()
    assert 'afterglow_top_k_fallbacks_total{name="model",version="1"} 3.0' in metrics.render().decode()
