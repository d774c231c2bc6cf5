"""One measurement of one server: generators pinned to their cores, the server's processes watched meanwhile."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loadtest.bench.exchange import Job, Outcome, save_requests
from loadtest.bench.figures import between, summary
from loadtest.bench.processes import Running, Use, machine_time
from loadtest.bench.servers import ROOT
from loadtest.errors import LoadtestError

# Between the start of the generators and their first request: importing takes a while.
_LEAD_S = 0.6
_ABOVE_ALL_S = 60.0


@dataclass(frozen=True)
class Load:
    """Requests and the generators that send them.

    Args:
        cores: one generator process on each.
    """

    requests: Sequence[bytes]
    cores: Sequence[int]
    expected: Sequence[bytes] | None = None


@dataclass(frozen=True)
class Measured:
    """Outcome of the requests, and what the server used from the first to the last of them."""

    outcome: Outcome
    before: Use
    after: Use
    foreign_cores: float  # worked by processes that are no part of the benchmark, on average
    stolen_cores: float  # wanted by this machine and given to others by its host, on average

    def summary(self, *, budget_ms: float, slack_ms: float = 0.0, from_s: float = 0.0) -> dict[str, Any]:
        n = len(self.outcome.planned)
        judged = between(self.outcome, from_s, self.outcome.seconds) if from_s else self.outcome
        told = summary(judged, budget_ms=budget_ms, slack_ms=slack_ms)
        cpu_ms = (self.after.cpu_s - self.before.cpu_s) * 1e3
        return told | {
            "server_cpu_ms_per_request": round(cpu_ms / n, 4) if n else None,
            "server_pss_mb": self.after.pss_mb,
            **self.surroundings(),
        }

    def surroundings(self) -> dict[str, float]:
        """What else the cores did meanwhile."""
        return {
            "generator_cpu_share": round(self.outcome.cpu_s / self.outcome.seconds, 3),
            "foreign_cores": self.foreign_cores,
            "stolen_cores": self.stolen_cores,
        }


def closed_loop(server: Running, load: Load, *, connections: int, seconds: float, **more: Any) -> Measured:
    """`connections` requests are always in flight."""
    return _run(server, load, "closed", [(0.0, seconds)], connections, more)


def open_loop(
    server: Running, load: Load, phases: Sequence[tuple[float, float]], *, connections: int = 512, **more: Any
) -> Measured:
    """Requests leave on a schedule of (per second, seconds), whatever the server does."""
    return _run(server, load, "open", phases, connections, more)


def _run(
    server: Running,
    load: Load,
    mode: Literal["open", "closed"],
    phases: Sequence[tuple[float, float]],
    connections: int,
    more: dict[str, Any],
) -> Measured:
    n = min(len(load.cores), connections)
    with tempfile.TemporaryDirectory(prefix="afterglow-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        requests = folder / "requests.npz"
        save_requests(requests, load.requests, load.expected)
        start_at = time.monotonic() + _LEAD_S
        generators = []
        seed, max_requests = more.pop("seed", 7), more.pop("max_requests", 0)
        for number, core in enumerate(load.cores[:n]):
            job = Job(
                "127.0.0.1",
                server.port,
                mode,
                [(rate / n, seconds) for rate, seconds in phases],
                max(1, connections // n),
                str(requests),
                str(folder / f"out-{number}.npz"),
                seed=seed + number,
                start_at=start_at,
                cores=(core,),
                max_requests=-(-max_requests // n),
                **more,
            )
            generators.append(stack.enter_context(_generator(job)))
        if (wait := start_at - time.monotonic()) > 0:
            time.sleep(wait)
        before, machine_before, begin = server.use(), machine_time(), time.monotonic()
        limit_s = sum(seconds for _, seconds in phases) + _ABOVE_ALL_S
        for generator in generators:
            _, complaint = generator.communicate(timeout=limit_s)
            if generator.returncode:
                raise LoadtestError(complaint.decode(errors="replace").strip() or f"code {generator.returncode}")
        after, machine, took_s = server.use(), machine_time(), time.monotonic() - begin
        outcome = Outcome.together([Outcome.load(folder / f"out-{number}.npz") for number in range(n)])
    foreign_s = machine.busy_s - machine_before.busy_s - (after.cpu_s - before.cpu_s) - outcome.cpu_s
    stolen_s = machine.stolen_s - machine_before.stolen_s
    return Measured(outcome, before, after, round(max(0.0, foreign_s / took_s), 3), round(stolen_s / took_s, 3))


@contextlib.contextmanager
def _generator(job: Job) -> Any:
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtest.bench.generator"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        process_group=0,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(job.to_json())
        process.stdin.close()
        process.stdin = None  # communicate() would flush it again
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
