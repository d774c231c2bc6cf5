from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import repeat
from typing import Any

import pytest
from http_stand_in import FakeService

from loadtest.capacity import Limits, Search, find_capacity, http_steps
from loadtest.client import Client
from loadtest.errors import InputError
from loadtest.open_loop import OpenLoop
from loadtest.traffic import Call

SUMMARY = {"latency_ms": {"p99": 20.0}, "error_share": 0.0, "degraded_share": 0.0}


def service_that_carries(limit: float, *, hiccups: frozenset[float] = frozenset()) -> tuple[list[float], Any]:
    """The rates that were tried, and steps of a service that breaks above `limit` and once at every hiccup."""
    tried: list[float] = []

    async def run_step(rate: float) -> dict[str, Any]:
        tried.append(rate)
        hiccup = rate in hiccups and tried.count(rate) == 1
        reasons = ["p99"] if rate > limit or hiccup else []
        return {"rate_per_s": rate, "reasons": reasons, "kept_schedule": True}

    return tried, run_step


async def search(run_step: Callable[[float], Awaitable[dict[str, Any]]], **how: float) -> dict[str, Any]:
    return await find_capacity(run_step, Search(**how), stop=asyncio.Event())  # type: ignore[arg-type]


async def test_steps_grow_until_one_fails_twice_and_then_halve() -> None:
    tried, run_step = service_that_carries(330)
    found = await search(run_step, start_per_s=100, factor=2, refinements=3)
    # Up: 100, 200, 400 (fails twice). Between 200 and 400: 300 holds, 350 fails twice, 325 holds.
    assert tried == [100, 200, 400, 400, 300, 350, 350, 325]
    assert (found["capacity_per_s"], found["failed_at_per_s"]) == (325, 350)
    assert [step["rate_per_s"] for step in found["steps"]] == sorted(tried)


async def test_one_hiccup_is_no_limit() -> None:
    tried, run_step = service_that_carries(250, hiccups=frozenset({100.0}))
    found = await search(run_step, start_per_s=100, factor=2, refinements=0)
    assert tried == [100, 100, 200, 400, 400]
    assert found["capacity_per_s"] == 200


async def test_a_service_that_fails_at_the_first_rate_has_no_capacity() -> None:
    tried, run_step = service_that_carries(10)
    found = await search(run_step, start_per_s=50, factor=2, refinements=3)
    assert tried == [50, 50]
    assert found["capacity_per_s"] is None


async def test_a_search_ends_at_the_highest_rate_allowed() -> None:
    tried, run_step = service_that_carries(1e9)
    found = await search(run_step, start_per_s=100, factor=2, max_per_s=500, refinements=3)
    assert tried == [100, 200, 400]
    assert (found["capacity_per_s"], found["failed_at_per_s"]) == (400, None)
    assert "still held at 400/s" in found["ended_because"]


async def test_a_stop_keeps_the_steps_so_far() -> None:
    stop = asyncio.Event()
    tried, inner = service_that_carries(1e9)

    async def run_step(rate: float) -> dict[str, Any]:
        if rate == 200:
            stop.set()
        return dict(await inner(rate))

    found = await find_capacity(run_step, Search(100, 2), stop=stop)
    assert tried == [100, 200]
    assert found["ended_because"] == "interrupted"
    # The step that was cut short proves nothing, either way.
    assert (found["capacity_per_s"], found["failed_at_per_s"]) == (100, None)
    assert found["steps"][-1]["reasons"] == ["interrupted"]


async def test_a_failure_with_a_late_generator_is_marked() -> None:
    async def run_step(rate: float) -> dict[str, Any]:
        return {"rate_per_s": rate, "reasons": ["p99"], "kept_schedule": False}

    assert (await search(run_step, start_per_s=100, factor=2))["limited_by_generator"] is True


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({}, []),
        ({"latency_ms": {"p99": 50.1}}, ["p99 50.1 ms > 50 ms"]),
        ({"latency_ms": None}, ["no request was answered"]),
        ({"error_share": 0.02}, ["error_share 2.00% > 1%"]),
        ({"degraded_share": 0.011, "error_share": 0.01}, ["degraded_share 1.10% > 1%"]),
    ],
)
def test_limits_name_what_broke_them(change: dict[str, Any], broken: list[str]) -> None:
    assert Limits().broken({**SUMMARY, **change}) == broken


def test_a_search_that_cannot_move_is_refused() -> None:
    with pytest.raises(InputError, match="factor > 1"):
        Search(factor=1.0)


async def test_a_step_over_http_judges_recommend_and_reads_the_process(fake_service: FakeService) -> None:
    ask = Call("recommend", "/v1/recommend", b'{"history": []}')
    plan = OpenLoop(rate_per_s=1, duration_s=0.2, warmup_s=0.0, arrivals="constant")
    async with Client(fake_service.url) as client:
        step = await http_steps(client, repeat(ask), plan, Limits(p99_ms=1e6), stop=asyncio.Event())(100)
    assert step["rate_per_s"] == 100
    assert step["reasons"] == []
    assert step["recommend"]["requests"] == 20
    assert step["service_process"] == {"cpu_ms_per_request": 0.0, "resident_mb": 200.0}
