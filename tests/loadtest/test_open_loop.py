from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import repeat

import numpy as np
import pytest
from http_stand_in import FakeService, serving

from loadtest.client import Client
from loadtest.errors import InputError, LoadtestError
from loadtest.open_loop import OpenLoop, Run, run_open_loop
from loadtest.recorder import Recorder, Reply
from loadtest.traffic import Call, Traffic
from loadtest.workload import Session

ASK = Call("recommend", "/v1/recommend", b'{"history": [{"item_id": "i00"}]}')
QUICK = OpenLoop(rate_per_s=200, duration_s=0.3, warmup_s=0.1, arrivals="constant")


def test_constant_arrivals_are_evenly_spaced() -> None:
    plan = OpenLoop(rate_per_s=4, duration_s=1, warmup_s=0, arrivals="constant")
    assert plan.schedule().tolist() == [0.0, 0.25, 0.5, 0.75]


def test_poisson_arrivals_are_seeded_sorted_and_as_many_as_the_rate_says() -> None:
    plan = OpenLoop(rate_per_s=100, duration_s=50, seed=1)
    times = plan.schedule()
    np.testing.assert_array_equal(times, plan.schedule())
    assert (np.diff(times) >= 0).all()
    assert times[0] >= 0
    assert times[-1] < 50
    assert abs(len(times) - 5000) < 4 * np.sqrt(5000)
    # Gaps of a Poisson process are exponential: their deviation equals their mean.
    gaps = np.diff(times)
    assert abs(gaps.std() / gaps.mean() - 1) < 0.1


@pytest.mark.parametrize(
    "wrong", [{"rate_per_s": 0}, {"duration_s": 0}, {"warmup_s": 9.0}, {"budget_ms": 0}, {"arrivals": "bursts"}]
)
def test_a_plan_that_cannot_run_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        OpenLoop(**{"rate_per_s": 1.0, "duration_s": 5.0, **wrong})  # type: ignore[arg-type]


async def test_every_planned_request_is_sent_and_recorded(fake_service: FakeService) -> None:
    calls = Traffic("stored").calls(Session("s", "u", tuple(fake_service.item_ids[:30])))
    replies: list[tuple[str, Reply]] = []
    async with Client(fake_service.url) as client:
        run = await run_open_loop(
            client,
            calls,
            QUICK,
            stop=asyncio.Event(),
            on_reply=lambda call, reply, _: replies.append((call.kind, reply)),
        )
    findings = run.findings()
    assert len(run.recorder) == len(replies) == 60
    assert len(fake_service.events["u"]) == 30
    assert findings["summary"]["requests"] == 40  # 0.1 s of 0.3 s is warm-up
    assert findings["summary"]["faults"] == {}
    assert findings["by_kind"]["events"]["durability"] == {"stored": 20}
    assert findings["by_kind"]["recommend"]["tiers"] == {"model": 20}
    assert findings["by_kind"]["recommend"]["stages_ms"]["state"]["p50"] == 0.5
    assert {headers.get("x-request-timeout-ms") for headers in fake_service.headers} == {"100"}


async def test_failures_are_recorded_and_not_raised(fake_service: FakeService) -> None:
    fake_service.fail_with = 500
    async with Client(fake_service.url) as client:
        run = await run_open_loop(client, repeat(ASK), QUICK, stop=asyncio.Event())
    assert run.findings()["summary"]["faults"] == {"http_500": 40}


async def test_a_slow_reply_counts_from_the_planned_moment_for_those_behind_it() -> None:
    """One connection, every reply takes 50 ms: request n of a burst has waited for those before it."""

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.05)
            writer.write(b"HTTP/1.1 200 X\r\nContent-Length: 0\r\n\r\n")

    plan = OpenLoop(rate_per_s=1000, duration_s=0.004, warmup_s=0, arrivals="constant")
    async with serving(slow) as url, Client(url, max_connections=1) as client:
        run = await run_open_loop(client, repeat(Call("recommend", "/", b"")), plan, stop=asyncio.Event())
    view = run.recorder.view()
    # A lower bound, whatever else the machine does: 50, 100, 150, 200 ms less the few ms between their plans.
    assert (view.latency_ms >= [49, 98, 147, 196]).all()
    # In their own eyes each took one service time: what a closed loop would have reported.
    assert (view.sent_s[1:] >= view.done_s[:-1]).all()


async def test_a_stop_ends_the_sending_and_keeps_what_was_measured(fake_service: FakeService) -> None:
    stop = asyncio.Event()
    plan = OpenLoop(rate_per_s=100, duration_s=60, warmup_s=1)

    def count(call: Call, reply: Reply, done_s: float) -> None:
        if done_s > 0:
            stop.set()

    async with Client(fake_service.url) as client:
        run = await run_open_loop(client, repeat(ASK), plan, stop=stop, on_reply=count)
    assert 0 < len(run.recorder) < 100
    assert run.sent_until_s < 60
    assert run.findings()["summary"]["requests"] == 0  # stopped within the warm-up
    assert run.findings()["per_second"]


async def test_an_error_beside_the_load_ends_it(fake_service: FakeService) -> None:
    async def fail(clock: Callable[[], float]) -> None:
        raise LoadtestError(f"after {clock() >= 0}")

    async with Client(fake_service.url) as client:
        with pytest.raises(LoadtestError, match="after True"):
            await run_open_loop(client, repeat(ASK), OpenLoop(100, 60), stop=asyncio.Event(), beside=fail)


def gaps(*milliseconds: float) -> Run:
    recorder = Recorder()
    for n, gap in enumerate(milliseconds):
        recorder.add(
            "recommend", planned_s=n, started_s=n + gap / 1e3, sent_s=n + 1, done_s=n + 1, reply=Reply(200, "model")
        )
    return Run(recorder, OpenLoop(1, 10, 0), sent_until_s=10.0)


@pytest.mark.parametrize(("gap_ms", "kept"), [(1.0, True), (20.0, False)])
def test_a_generator_that_runs_late_says_so(gap_ms: float, kept: bool) -> None:
    generator = gaps(0.5, 0.5, gap_ms).findings()["generator"]
    assert generator["kept_schedule"] is kept
    assert generator["start_gap_p99_ms"] == pytest.approx(gap_ms)
