"""A generator in this process, and something for it to talk to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from loadtest.bench.exchange import Job, Outcome, save_requests
from loadtest.bench.generator import Generator
from loadtest.bench.processes import Running, started

ROOT = Path(__file__).parents[3]

Drive = Callable[..., Outcome]


@pytest.fixture
def drive(tmp_path: Path) -> Drive:
    """Runs a job here: port, phases and whatever else a Job takes."""

    def run(
        port: int,
        *,
        phases: Sequence[tuple[float, float]],
        mode: str = "open",
        requests: Sequence[bytes] = (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",),
        expected: Sequence[bytes] | None = None,
        connections: int = 4,
        **more: Any,
    ) -> Outcome:
        path = tmp_path / "requests.npz"
        save_requests(path, requests, expected)
        job = Job("127.0.0.1", port, mode, phases, connections, str(path), "", **more)  # type: ignore[arg-type]
        return Generator(Job.from_json(job.to_json())).run()

    return run


@pytest.fixture
def answerer(tmp_path: Path) -> Iterator[Running]:
    """The cheapest server, in a process of its own."""
    with started(
        lambda port: [sys.executable, "-m", "loadtest.bench.answerer", str(port)],
        log=tmp_path / "answerer.log",
        cores=[0],
        environment={"PYTHONPATH": str(ROOT)},
        ready="/",
    ) as running:
        yield running
