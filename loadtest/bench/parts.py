"""The parts of a benchmark: each starts what it needs, measures for less than four minutes, and gives one entry."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from loadtest.bench import machine
from loadtest.bench.artefacts import Made, Shape, histories, made
from loadtest.bench.contest import (
    Entry,
    Point,
    Say,
    Summary,
    describe,
    side_by_side,
    starter,
    tune,
    typical,
)
from loadtest.bench.exchange import http_request
from loadtest.bench.figures import between, median, recovery_s, summary
from loadtest.bench.processes import Running
from loadtest.bench.runs import Load, Measured, closed_loop, open_loop
from loadtest.bench.servers import PEERS, ROOT, K, Place, Server, Setting, afterglow, ask_stored, echo
from loadtest.bench.state import store_histories

BUDGETS_MS = (5, 10, 20, 50, 100, 200)
FACTORS = (1.2, 2.0, 5.0, 10.0)
LOADS = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0)
_DEFAULT_BUDGET_MS = 100.0
_SLACK_MS = 5.0  # allowed above a budget
_AT_LOAD = 0.7


@dataclass(frozen=True)
class Bench:
    """What every part needs.

    Args:
        tries: ways to run the service that it is tuned over, as settings by field name.
        rounds: measurements of which the middle one counts.
        seconds: length of one closed-loop measurement; `tune_seconds` of one while settings are tried.
        connections: tried in closed loops; None: what suits the catalogue.
        root: checkout whose service is measured.
    """

    cores: machine.Cores
    cache: Path
    venvs: Path
    scratch: Path
    say: Say
    tries: Sequence[Mapping[str, str]] = ({},)
    rounds: int = 3
    seconds: float = 3.0
    tune_seconds: float = 1.0
    n_histories: int = 4_000
    connections: Sequence[int] | None = None
    root: Path = ROOT

    def place(self, shape: Shape) -> tuple[Place, Made]:
        self.say(f"artefact {shape.name}")
        found = made(shape, self.cache)
        return Place(found.artefacts, found.whole, self.scratch, self.venvs), found

    def start(self, server: Server, setting: Setting) -> contextlib.AbstractContextManager[Running]:
        return starter(self.cores.server, self.scratch / f"{server.name}.log")(server, setting)

    def connections_for(self, shape: Shape) -> Sequence[int]:
        """Connections to try: enough to fill a batch, few enough that one waits at most 50 ms."""
        if self.connections is not None:
            return self.connections
        if shape.n_items <= 20_000:
            return 16, 32, 64
        return (16, 32, 48, 64) if shape.n_items <= 200_000 else (1, 2, 4, 8, 12, 16, 24)

    def load(self, requests: Sequence[bytes]) -> Load:
        return Load(requests, self.cores.generator)

    def tune(self, server: Server, load: Load, connections: Sequence[int], **more: Any) -> tuple[Point, list[Summary]]:
        return tune(server, load, connections, start=self.start, say=self.say, seconds=self.tune_seconds, **more)


def calibrate(bench: Bench) -> dict[str, Any]:
    """Memory, multiplication, the stock echo, and how many requests per second the generator itself can send."""
    n_cores = len(bench.cores.server)
    told: dict[str, Any] = {}
    for threads in sorted({1, n_cores}):
        told |= machine.calibrate(threads)
    bench.say(f"memory and sgemm: {told}")
    lists = histories([f"i{number:08d}" for number in range(10_000)], bench.n_histories, seed=7)
    server = echo()
    load = bench.load([server.ask(each) for each in lists])
    best, _ = bench.tune(server, load, (8, 32))
    with bench.start(server, best.setting) as running:
        rounds = side_by_side(
            [Entry("echo", running, load, best.connections)], rounds=bench.rounds, seconds=bench.seconds, say=bench.say
        )
    told["echo"] = typical(rounds["echo"], bench.rounds)
    # The generator alone, against an answer that costs next to nothing: what it can send bounds what it can measure.
    setting = Setting("answerer", lambda port: [*_ANSWERER, str(port)], {"PYTHONPATH": str(ROOT)})
    answerer = Server("answerer", "/", [setting], server.ask)
    with bench.start(answerer, setting) as running:
        ceiling = [closed_loop(running, load, connections=64, seconds=2.0) for _ in range(bench.rounds)]
    per_s = median([len(each.outcome.planned) / each.outcome.seconds for each in ceiling])
    cpu_us = median([each.outcome.cpu_s / len(each.outcome.planned) * 1e6 for each in ceiling])
    told["generator"] = {"ceiling_per_s": round(per_s), "cpu_us_per_request": round(cpu_us, 1)}
    bench.say(f"generator: {told['generator']}")
    return told


def capacity(bench: Bench, shape: Shape) -> dict[str, Any]:
    """Requests per second against the stock echo, history in the request and state in Redis, in turn."""
    place, found = bench.place(shape)
    lists = histories(found.item_ids, bench.n_histories, seed=7)
    service, stock = afterglow(place, bench.tries, root=bench.root), echo()
    requests = bench.load([service.ask(each) for each in lists])
    stored = bench.load([ask_stored(f"u{number}") for number in range(len(lists))])
    fill = _filler(lists)
    in_request, tried = bench.tune(service, requests, bench.connections_for(shape))
    in_redis, tried_stored = bench.tune(service, stored, bench.connections_for(shape), prepare=fill)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(bench.start(service, in_request.setting))
        other = running
        if in_redis.setting is not in_request.setting:
            other = stack.enter_context(bench.start(service, in_redis.setting))
        fill(other)
        echoing = stack.enter_context(bench.start(stock, stock.settings[0]))
        entries = [
            Entry("request", running, requests, in_request.connections),
            Entry("redis", other, stored, in_redis.connections),
            Entry("echo", echoing, bench.load([stock.ask(each) for each in lists]), 16),
        ]
        told = side_by_side(entries, rounds=bench.rounds, seconds=bench.seconds, say=bench.say)
    figures = {name: typical(rounds, bench.rounds) for name, rounds in told.items()}
    return {
        "shape": shape.name,
        "settings": {"request": in_request.setting.label, "redis": in_redis.setting.label},
        "connections": {"request": in_request.connections, "redis": in_redis.connections, "echo": 16},
        "tried": {"request": tried, "redis": tried_stored},
        **figures,
        "ratio_to_echo": {name: _ratio(figures[name], figures["echo"]) for name in ("request", "redis")},
    }


def compare(bench: Bench, shape: Shape, peer: str) -> dict[str, Any]:
    """The service and one peer, each at its best point, in turn; the history is in the request."""
    place, found = bench.place(shape)
    lists = histories(found.item_ids, bench.n_histories, seed=7)
    ours, theirs = afterglow(place, bench.tries, root=bench.root), PEERS[peer](place, len(bench.cores.server))
    loads = {each.name: bench.load([each.ask(history) for history in lists]) for each in (ours, theirs)}
    best = {each.name: bench.tune(each, loads[each.name], bench.connections_for(shape)) for each in (ours, theirs)}
    with contextlib.ExitStack() as stack:
        entries = []
        for each in (ours, theirs):
            point, _ = best[each.name]
            running = stack.enter_context(bench.start(each, point.setting))
            entries.append(Entry(each.name, running, loads[each.name], point.connections))
        told = side_by_side(entries, rounds=bench.rounds, seconds=bench.seconds, say=bench.say)
    figures = {name: typical(rounds, bench.rounds) for name, rounds in told.items()}
    python = None if peer == "straightforward" else place.venvs / peer / "bin" / "python"
    return {
        "shape": shape.name,
        "peer": peer,
        "versions": machine.versions(theirs.packages, python),
        "settings": {name: point.setting.label for name, (point, _) in best.items()},
        "connections": {name: point.connections for name, (point, _) in best.items()},
        "tried": {name: tried for name, (_, tried) in best.items()},
        **figures,
        "ratio": _ratio(figures[ours.name], figures[peer]),
    }


def rate(bench: Bench, shape: Shape, per_s: float, limit_ms: float) -> dict[str, Any]:
    """p90 of an open loop at a given rate, history in the request and state in Redis."""
    place, found = bench.place(shape)
    lists = histories(found.item_ids, bench.n_histories, seed=7)
    service = afterglow(place, bench.tries, root=bench.root)
    requests = bench.load([service.ask(each) for each in lists])
    stored = bench.load([ask_stored(f"u{number}") for number in range(len(lists))])
    point, tried = bench.tune(service, requests, bench.connections_for(shape))
    told: dict[str, list[Summary]] = {"request": [], "redis": []}
    with bench.start(service, point.setting) as running:
        _filler(lists)(running)
        for seed in range(bench.rounds):
            for name, load in (("request", requests), ("redis", stored)):
                measured = open_loop(running, load, [(per_s, 7.0)], seed=seed)
                told[name].append(measured.summary(budget_ms=limit_ms, from_s=1.0))
                bench.say(f"{per_s:.0f}/s, {name}: {describe(told[name][-1])}")
    figures = {name: typical(rounds, bench.rounds, _p90) for name, rounds in told.items()}
    return {
        "shape": shape.name,
        "rate_per_s": per_s,
        "limit_ms": limit_ms,
        "setting": point.setting.label,
        "peak_per_s": point.summary["goodput_per_s"],
        "tried": tried,
        **figures,
        "p90_ms": {name: _p90(figure) for name, figure in figures.items()},
        "held": {name: _p90(figure) <= limit_ms for name, figure in figures.items()},
    }


def curve(bench: Bench, shape: Shape) -> dict[str, Any]:
    """Latency of an open loop from 20 to 100 % of the closed-loop peak, and p99 / p50 at 70 %."""
    with _peaked(bench, shape) as (running, load, point):
        peak = point.summary["goodput_per_s"]
        steps = []
        for share in LOADS:
            measured = open_loop(running, load, [(share * peak, 4.0)])
            steps.append({"load": share, **measured.summary(budget_ms=_DEFAULT_BUDGET_MS, from_s=1.0)})
            bench.say(f"at {share:.0%}: {describe(steps[-1])}")
        at_load = [
            open_loop(running, load, [(_AT_LOAD * peak, 6.0)], seed=seed).summary(
                budget_ms=_DEFAULT_BUDGET_MS, from_s=1.0
            )
            for seed in range(bench.rounds)
        ]
    middle = typical(at_load, bench.rounds, _spread)
    return {
        "shape": shape.name,
        "setting": point.setting.label,
        "peak_per_s": peak,
        "steps": steps,
        "at_70_percent": middle,
        "p99_to_p50_at_70_percent": round(_spread(middle), 2),
    }


def budgets(bench: Bench, shape: Shape) -> dict[str, Any]:
    """Share of replies within budget + 5 ms, and their tiers, for each budget at 70 % of the peak."""
    place, found = bench.place(shape)
    lists = histories(found.item_ids, bench.n_histories, seed=7)
    with _peaked(bench, shape) as (running, load, point):
        peak = point.summary["goodput_per_s"]
        unloaded = open_loop(running, load, [(max(5.0, 0.03 * peak), 5.0)]).summary(budget_ms=_DEFAULT_BUDGET_MS)
        told: dict[int, list[Summary]] = {budget: [] for budget in BUDGETS_MS}
        loads = {
            budget: bench.load([afterglow(place, budget_ms=budget).ask(each) for each in lists])
            for budget in BUDGETS_MS
        }
        for seed in range(bench.rounds):
            for budget in BUDGETS_MS:
                measured = open_loop(running, loads[budget], [(_AT_LOAD * peak, 4.0)], seed=seed)
                told[budget].append(measured.summary(budget_ms=budget, slack_ms=_SLACK_MS, from_s=1.0))
                bench.say(f"budget {budget} ms: {describe(told[budget][-1])}")
    return {
        "shape": shape.name,
        "setting": point.setting.label,
        "peak_per_s": peak,
        "unloaded_ms": unloaded["latency_ms"],
        "budgets": {
            str(budget): typical(rounds, bench.rounds, lambda each: float(each["within_budget_share"]))
            for budget, rounds in told.items()
        },
    }


def overload(bench: Bench, shape: Shape) -> dict[str, Any]:
    """Goodput at several times the peak, how fast the rest is turned away, memory, and the time to recover."""
    _, found = bench.place(shape)
    lists = histories(found.item_ids, bench.n_histories, seed=7)
    never = [
        http_request(
            "POST",
            "/v1/recommend",
            orjson.dumps({"history": [{"item_id": i} for i in each], "count": K, "degrade": "never"}),
        )
        for each in lists
    ]
    with _peaked(bench, shape) as (running, load, point):
        peak = point.summary["goodput_per_s"]
        steps = []
        for factor in FACTORS:
            for degrade, requests in (("allow", load), ("never", bench.load(never))):
                phases = [(0.5 * peak, 1.0), (factor * peak, 4.0), (0.5 * peak, 6.0)]
                measured = open_loop(running, requests, phases, connections=1024, timeout_s=3.0)
                steps.append(_overloaded(measured, factor, degrade, peak))
                bench.say(f"{factor:g}x, degrade {degrade}: {steps[-1]['goodput_share']:.0%} of peak")
    return {"shape": shape.name, "setting": point.setting.label, "peak_per_s": peak, "steps": steps}


def _overloaded(measured: Measured, factor: float, degrade: str, peak: float) -> Summary:
    inside = summary(between(measured.outcome, 1.5, 5.0), budget_ms=_DEFAULT_BUDGET_MS)
    return {
        "factor": factor,
        "degrade": degrade,
        **inside,
        "goodput_share": round(inside["goodput_per_s"] / peak, 4),
        "goodput_since_sent_share": round(inside["goodput_since_sent_per_s"] / peak, 4),
        "recovery_s": recovery_s(measured.outcome, from_s=5.0, budget_ms=_DEFAULT_BUDGET_MS),
        "pss_mb": [measured.before.pss_mb, measured.after.pss_mb],
        "fds": [measured.before.n_fds, measured.after.n_fds],
        **measured.surroundings(),
    }


@contextlib.contextmanager
def _peaked(bench: Bench, shape: Shape) -> Iterator[tuple[Running, Load, Point]]:
    """The service at its best setting, its peak measured a moment ago; history in the request."""
    place, found = bench.place(shape)
    service = afterglow(place, bench.tries, root=bench.root)
    load = bench.load([service.ask(each) for each in histories(found.item_ids, bench.n_histories, seed=7)])
    point, _ = bench.tune(service, load, bench.connections_for(shape))
    with bench.start(service, point.setting) as running:
        told = side_by_side(
            [Entry("peak", running, load, point.connections)], rounds=bench.rounds, seconds=2.0, say=bench.say
        )
        yield running, load, Point(point.setting, point.connections, typical(told["peak"], bench.rounds))


def _filler(lists: Sequence[Sequence[str]]) -> Callable[[Running], None]:
    return lambda running: store_histories(running.port, {f"u{number}": each for number, each in enumerate(lists)})


def _ratio(ours: Summary, theirs: Summary) -> float | None:
    return round(ours["goodput_per_s"] / theirs["goodput_per_s"], 3) if theirs["goodput_per_s"] else None


def _p90(summary: Summary) -> float:
    return float(summary["latency_ms"]["p90"]) if summary["latency_ms"] else float("inf")


def _spread(summary: Summary) -> float:
    latency = summary["latency_ms"]
    return float(latency["p99"] / latency["p50"]) if latency else float("inf")


_ANSWERER = [sys.executable, "-m", "loadtest.bench.answerer"]
