"""Servers measured side by side: each tuned to its best point, then in turn, so that a slow minute hits them all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.bench.figures import median
from loadtest.bench.processes import Running, started
from loadtest.bench.runs import Load, closed_loop
from loadtest.bench.servers import Server, Setting
from loadtest.errors import LoadtestError

Summary = dict[str, Any]
Say = Callable[[str], None]

P99_LIMIT_MS = 50.0
FAILED_LIMIT = 0.01
# Others working more than this beside a run make it a doubtful one; it is repeated while repeats are left.
QUIET_CORES = 0.1
_WARM_S = 0.5


@dataclass(frozen=True)
class Point:
    """One way to run and load a server, and what it gave."""

    setting: Setting
    connections: int
    summary: Summary

    @property
    def is_carried(self) -> bool:
        """Whether p99 is within 50 ms, the first tier answered 99 % and no more than 1 % failed."""
        told = self.summary
        latency = told["latency_ms"]
        return (
            latency is not None
            and latency["p99"] <= P99_LIMIT_MS
            and told["failed"] + told["refused"] <= FAILED_LIMIT * told["requests"]
            and told["first_tier_share"] >= 1 - FAILED_LIMIT
        )


@dataclass(frozen=True)
class Entry:
    """A started server with its load in a contest."""

    name: str
    running: Running
    load: Load
    connections: int


def tune(
    server: Server,
    load: Load,
    connections: Sequence[int],
    *,
    start: Callable[[Server, Setting], contextlib.AbstractContextManager[Running]],
    say: Say,
    seconds: float = 1.0,
    prepare: Callable[[Running], None] = lambda running: None,
) -> tuple[Point, list[Summary]]:
    """The point with the most goodput among those that keep the limits (all, if none does), and everything tried."""
    points: list[Point] = []
    tried: list[Summary] = []
    for setting in server.settings:
        try:
            with start(server, setting) as running:
                prepare(running)
                closed_loop(running, load, connections=8, seconds=_WARM_S)
                for n in connections:
                    measured = closed_loop(running, load, connections=n, seconds=seconds)
                    point = Point(setting, n, measured.summary(budget_ms=P99_LIMIT_MS))
                    points.append(point)
                    tried.append(_row(point))
                    say(f"{server.name}: {setting.label}, {n} connections: {describe(point.summary)}")
        except LoadtestError as error:  # a setting that does not start is no point, and no reason to give up the others
            say(f"{server.name}: {setting.label}: {str(error).splitlines()[0]}")
            tried.append({"setting": setting.label, "error": str(error)[:300]})
    if not points:
        raise LoadtestError(f"{server.name}: started with none of its settings; the last said: {tried[-1]['error']}")
    carried = [point for point in points if point.is_carried]
    return max(carried or points, key=lambda point: point.summary["goodput_per_s"]), tried


def side_by_side(entries: Sequence[Entry], *, rounds: int, seconds: float, say: Say) -> dict[str, list[Summary]]:
    """Summaries of each entry: `rounds`, or up to twice as many where some are doubtful. Who waits stands still."""
    told: dict[str, list[Summary]] = {entry.name: [] for entry in entries}
    for entry in entries:
        entry.running.pause()
    try:
        for attempt in range(2 * rounds):
            if attempt >= rounds and all(_n_quiet(each) >= rounds for each in told.values()):
                break
            for entry in entries:
                entry.running.resume()
                closed_loop(entry.running, entry.load, connections=entry.connections, seconds=_WARM_S)
                measured = closed_loop(entry.running, entry.load, connections=entry.connections, seconds=seconds)
                entry.running.pause()
                summary = measured.summary(budget_ms=P99_LIMIT_MS)
                told[entry.name].append(summary)
                say(f"round {attempt + 1}, {entry.name}: {describe(summary)}")
    finally:
        for entry in entries:
            entry.running.resume()
    return told


def typical(summaries: Sequence[Summary], rounds: int, key: Callable[[Summary], float] | None = None) -> Summary:
    """The run in the middle, by goodput, of the `rounds` that the machine's other work disturbed least.

    `runs` lists the figures of all, `foreign_cores` how disturbed each was.
    """
    key = key or (lambda summary: summary["goodput_per_s"])
    quietest = sorted(summaries, key=lambda summary: summary["foreign_cores"])[:rounds]
    middle = sorted(quietest, key=key)[(len(quietest) - 1) // 2]
    runs = [{"value": key(summary), "foreign_cores": summary["foreign_cores"]} for summary in summaries]
    return {**middle, "runs": runs, "median_of_all": median([run["value"] for run in runs])}


def starter(cores: Sequence[int], log: Path) -> Callable[[Server, Setting], contextlib.AbstractContextManager[Running]]:
    """How servers are started here: on `cores`, their output in `log`."""

    def start(server: Server, setting: Setting) -> contextlib.AbstractContextManager[Running]:
        return started(setting.command, log=log, cores=cores, environment=setting.environment, ready=server.ready)

    return start


def describe(summary: Summary) -> str:
    latency = summary["latency_ms"] or {}
    return (
        f"{summary['goodput_per_s']:.0f}/s good, p50 {latency.get('p50', float('nan')):.1f} "
        f"p99 {latency.get('p99', float('nan')):.1f} ms, {summary['server_cpu_ms_per_request']} CPU-ms, "
        f"others {summary['foreign_cores']:.2f} cores, host {summary['stolen_cores']:.2f}"
    )


def _row(point: Point) -> Summary:
    told = point.summary
    return {
        "setting": point.setting.label,
        "connections": point.connections,
        "goodput_per_s": told["goodput_per_s"],
        "p99_ms": told["latency_ms"] and told["latency_ms"]["p99"],
        "carried": point.is_carried,
        "foreign_cores": told["foreign_cores"],
    }


def _n_quiet(summaries: Sequence[Summary]) -> int:
    return sum(summary["foreign_cores"] <= QUIET_CORES for summary in summaries)
