"""The highest arrival rate a service carries: steps up until a limit breaks, then narrows in between."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from loadtest.client import Client
from loadtest.errors import InputError
from loadtest.open_loop import OpenLoop, run_open_loop
from loadtest.results import process_use, read_process
from loadtest.traffic import Call

RunStep = Callable[[float], Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class Limits:
    """What a rate must keep to count as carried."""

    p99_ms: float = 50.0
    error_share: float = 0.01
    degraded_share: float = 0.01

    def broken(self, summary: dict[str, Any]) -> list[str]:
        """A sentence per limit that a summary of recommend requests breaks; none means the rate was carried."""
        reasons = []
        latency = summary["latency_ms"]
        if latency is None:
            reasons.append("no request was answered")
        elif latency["p99"] > self.p99_ms:
            reasons.append(f"p99 {latency['p99']:.1f} ms > {self.p99_ms:g} ms")
        for name in ("error_share", "degraded_share"):
            limit = getattr(self, name)
            if summary[name] > limit:
                reasons.append(f"{name} {summary[name]:.2%} > {limit:.0%}")
        return reasons


@dataclass(frozen=True)
class Search:
    """How rates are tried: from `start_per_s` by `factor` until one fails twice, then `refinements` halvings."""

    start_per_s: float = 50.0
    factor: float = 1.5
    max_per_s: float = 20_000.0
    refinements: int = 3

    def __post_init__(self) -> None:
        if self.start_per_s <= 0 or self.factor <= 1 or self.max_per_s < self.start_per_s or self.refinements < 0:
            raise InputError(f"search: {self} needs start > 0, factor > 1, max >= start and refinements >= 0")


async def find_capacity(run_step: RunStep, search: Search, *, stop: asyncio.Event) -> dict[str, Any]:
    """The steps that ran, the highest rate that kept the limits, and why the search ended.

    Args:
        run_step: runs one rate and returns its step, with `reasons` (empty: the limits held) and `kept_schedule`.
            A rate counts as failed when it fails twice in a row, as one hiccup of a shared machine is no limit.
    """
    steps: list[dict[str, Any]] = []
    passed, failed = 0.0, float("inf")

    async def holds(rate: float) -> bool:
        for _ in range(2):
            steps.append(await run_step(rate))
            if stop.is_set():  # a step cut short proves nothing
                steps[-1]["reasons"].append("interrupted")
            if stop.is_set() or not steps[-1]["reasons"]:
                break
        return not steps[-1]["reasons"]

    rate, ended = search.start_per_s, ""
    while not ended:
        held = await holds(rate)
        if stop.is_set():
            ended = "interrupted"
        elif held:
            passed = rate
            rate *= search.factor
            if rate > search.max_per_s:
                ended = f"the limits still held at {passed:g}/s, the last rate not above {search.max_per_s:g}/s"
        else:
            failed = rate
            ended = "; ".join(steps[-1]["reasons"])
    for _ in range(search.refinements if passed and failed < float("inf") else 0):
        rate = (passed + failed) / 2
        held = await holds(rate)
        if stop.is_set():
            break
        passed, failed = (rate, failed) if held else (passed, rate)
    # A generator that runs late adds its own delay to the latency: then the figure is a lower bound.
    limited_by_generator = any(step["reasons"] and not step["kept_schedule"] for step in steps)
    return {
        "capacity_per_s": passed or None,
        "failed_at_per_s": failed if failed < float("inf") else None,
        "ended_because": ended,
        "limited_by_generator": limited_by_generator,
        "steps": sorted(steps, key=lambda step: step["rate_per_s"]),
    }


def http_steps(
    client: Client, calls: Iterator[Call], plan: OpenLoop, limits: Limits, *, stop: asyncio.Event
) -> RunStep:
    """Steps that run `plan` at each rate against a service; limits are judged on the recommend requests."""

    async def run_step(rate: float) -> dict[str, Any]:
        before = await read_process(client)
        run = await run_open_loop(
            client, calls, dataclasses.replace(plan, rate_per_s=rate), stop=stop, title=f"{rate:.0f} requests/s"
        )
        after = await read_process(client)
        findings = run.findings()
        recommend = findings["by_kind"].get("recommend", findings["summary"])
        return {
            "rate_per_s": rate,
            "reasons": limits.broken(recommend),
            "kept_schedule": findings["generator"]["kept_schedule"],
            "start_gap_p99_ms": findings["generator"]["start_gap_p99_ms"],
            "recommend": recommend,
            "all": findings["summary"],
            "service_process": process_use(before, after, n_requests=len(run.recorder)),
        }

    return run_step
