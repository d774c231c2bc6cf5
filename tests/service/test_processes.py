"""Several processes serve as one: what they share, what a death costs, and how they end."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import pytest
from command import LIMIT_S, Command, Serve, until
from napkin import ids

from service.processes.mode import mode, scan_threads, threads_wanted
from service.settings import Settings

ASK = {"history": [{"item_id": "a"}], "count": 3}


class Several:
    """A command with its processes, asked over a new connection each time."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.base = command.until_ready()

    def post(self, path: str, body: Any, budget_ms: int = 20_000) -> dict[str, Any]:
        headers = {"X-Request-Timeout-Ms": str(budget_ms)}
        response = httpx.post(f"{self.base}{path}", json=body, headers=headers, timeout=LIMIT_S)
        assert response.status_code < 300, response.text
        return dict(response.json())

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.base}{path}", timeout=LIMIT_S)

    def process(self, name: str) -> psutil.Process:
        def look() -> psutil.Process | None:
            children = psutil.Process(self.command.process.pid).children()
            return next((child for child in children if name in child.cmdline()), None)

        return until(look)

    def logged(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        complete = self.command.errors().rpartition("\n")[0]  # the last line may still be in the making
        lines = [orjson.loads(line) for line in complete.splitlines()]
        return [line for line in lines if line["event"] == event and fields.items() <= line.items()]

    def served(self) -> float:
        """Answers of recommend that any process's metrics page tells of."""
        page = self.get("/metrics").text
        return sum(map(float, re.findall(r"^afterglow_served_total\{.*\} (\S+)$", page, re.MULTILINE)))


@contextmanager
def callers(several: Several, n: int) -> Iterator[list[str]]:
    """`n` threads that ask without a pause while the block runs; what went wrong, one entry a request."""
    faults: list[str] = []
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            try:
                reply = several.post("/v1/recommend", ASK)
            except httpx.TransportError as error:
                faults.append(type(error).__name__)
            else:
                if ids(reply) != ["b", "c", "d"]:
                    faults.append(orjson.dumps(reply).decode())

    threads = [threading.Thread(target=call) for _ in range(n)]
    for thread in threads:
        thread.start()
    try:
        yield faults
    finally:
        stop.set()
        for thread in threads:
            thread.join(LIMIT_S)


def test_two_workers_share_port_state_and_metrics_and_outlive_one_another(serve: Serve, napkin: Path) -> None:
    several = Several(serve("--artefacts", str(napkin), "--port", "0", "--workers", "2"))
    assert several.command.out.read_text().startswith("2 processes, each for HTTP and with models of its own")

    # Both answer, from one state, into one page of metrics.
    several.post("/v1/events", {"events": [{"type": "view", "item_id": "a", "user_id": "u1"}]})
    asked = 0
    while {line["process"] for line in several.logged("request", tier="model")} != {"worker-1", "worker-2"}:
        assert ids(several.post("/v1/recommend", {"user_id": "u1", "count": 3})) == ["b", "c", "d"]
        asked += 1
        assert asked < 200
    assert [several.served() for _ in range(4)] == [asked] * 4
    hashes = {line["user"] for line in several.logged("request", tier="model")}
    assert len(hashes) == 1  # a user has one name in the log, whoever writes it

    # One is killed: only what it was just answering is lost, and it is started again.
    with callers(several, 2) as faults:
        several.process("worker-1").kill()
        until(lambda: several.logged("process_ready", process="worker-1")[1:])
    assert len(faults) <= 2, faults
    assert several.logged("process_died", process="worker-1", code=-signal.SIGKILL)

    # The sums of the dead one are kept.
    assert several.served() >= asked

    # A stop in two steps, as with one process.
    several.command.process.send_signal(signal.SIGTERM)
    until(lambda: several.get("/readyz").status_code == 503)
    assert several.post("/v1/recommend", ASK)["served"]["tier"] == "model"
    assert several.command.wait() == 0
    assert "Traceback" not in several.command.errors()
    assert not several.logged("process_killed")


def test_fronts_answer_lower_tiers_while_the_engine_process_is_away(serve: Serve, napkin: Path) -> None:
    several = Several(serve("--artefacts", str(napkin), "--port", "0", "--workers", "2", "--engine-process"))
    assert several.command.out.read_text().startswith("2 processes for HTTP, 1 engine process")
    assert several.get("/v1/models").json()["models"][0]["device"] == "CPUExecutionProvider"
    assert several.post("/v1/recommend", ASK)["served"] | {"state": None} == {
        "tier": "model",
        "degraded": False,
        "reasons": [],
        "model": several.get("/v1/models").json()["scenarios"][0]["model"],
        "scenario": "napkin",
        "state": None,
        "history_used": 1,
        "unknown_items": 0,
        "filtered_out": 1,
        "top_k_recall": None,
    }
    assert ids(several.post("/v1/similar", {"item_ids": ["e"], "count": 1})) == ["f"]

    # Stopped, it does not answer: budgets end, nobody waits longer.
    engine = several.process("engine")
    engine.suspend()
    late = several.post("/v1/recommend", ASK, budget_ms=50)
    assert (late["served"]["tier"], late["served"]["reasons"]) == ("popular", ["deadline_exceeded"])

    # Killed, it is missed at once, and not waited for.
    engine.kill()
    until(lambda: len(several.logged("engine_lost")) == 2)
    reply = several.post("/v1/recommend", ASK)
    if reply["served"]["tier"] != "model":  # else it is back already
        assert (ids(reply), reply["served"]["reasons"]) == (["c", "d", "f"], ["engine_unavailable"])

    # And it comes back, for the same fronts.
    until(lambda: len(several.logged("engine_connected")) == 4)
    assert several.get("/readyz").status_code == 200
    assert several.post("/v1/recommend", ASK)["served"]["tier"] == "model"

    # A front that dies takes nobody with it.
    with callers(several, 2) as faults:
        several.process("worker-2").kill()
        until(lambda: several.logged("process_ready", process="worker-2")[1:])
    assert len(faults) <= 2, faults
    assert len(several.logged("process_ready", process="engine")) == 2

    several.command.process.send_signal(signal.SIGINT)
    assert several.command.wait() == 130
    assert "interrupted" in several.command.errors()
    assert "Traceback" not in several.command.errors()


def test_when_the_command_is_killed_its_processes_end(serve: Serve, napkin: Path) -> None:
    several = Several(serve("--artefacts", str(napkin), "--port", "0", "--engine-process"))
    processes = [several.process(name) for name in ("worker-1", "engine")]
    several.command.process.send_signal(signal.SIGHUP)  # means nothing here
    assert several.post("/v1/recommend", ASK)["served"]["tier"] == "model"

    several.command.process.kill()
    several.command.wait()

    _, alive = psutil.wait_procs(processes, LIMIT_S)
    assert not alive


def test_an_artefact_that_one_process_refuses_stops_all_with_the_reason(
    serve: Serve, napkin: Path, tmp_path: Path
) -> None:
    root = tmp_path / "spoilt"
    shutil.copytree(napkin, root)
    (path,) = root.glob("*/*/items.npy")
    path.write_bytes(path.read_bytes()[:-1])

    command = serve("--artefacts", str(root), "--port", "0", "--workers", "2")

    assert command.wait() == 3
    assert command.errors().count("is refused") == 1
    assert "items.npy" in command.errors()
    assert "Traceback" not in command.errors()


def test_a_port_in_use_is_said_before_anything_starts(serve: Serve, napkin: Path) -> None:
    """Also where the other one would share it."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = serve("--artefacts", str(napkin), "--port", str(port), "--workers", "2")

        assert command.wait() == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in command.errors()


@pytest.mark.parametrize(
    ("settings", "says", "threads"),
    [
        ({}, "1 process for HTTP and models (1 thread a run)", 1),
        ({"workers": 2}, "2 processes, each for HTTP and with models of its own (1 thread a run)", 2),
        (
            {"workers": 3, "intra_op_threads": 2},
            "3 processes, each for HTTP and with models of its own (2 threads a run)",
            6,
        ),
        (
            {"workers": 4, "engine_process": True, "intra_op_threads": 2},
            "4 processes for HTTP, 1 engine process for the models (2 threads a run)",
            6,
        ),
        (
            {"workers": 2, "scan_threads": 4},
            "2 processes, each for HTTP and with models of its own (1 thread a run)",
            8,
        ),
        ({"engine_process": True}, "1 process for HTTP, 1 engine process for the models (1 thread a run)", 2),
    ],
)
def test_the_mode_is_said_in_a_sentence_and_its_threads_are_counted(
    settings: dict[str, Any], says: str, threads: int
) -> None:
    configured = Settings(**settings)
    assert (mode(configured), threads_wanted(configured)) == (says, threads)


def test_a_scan_has_the_cores_of_its_process_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.processes.mode.n_cores", lambda: 8)
    told = [
        {},
        {"workers": 3},
        {"workers": 16},
        {"workers": 3, "engine_process": True},
        {"workers": 3, "scan_threads": 7},
    ]
    assert [scan_threads(Settings(**settings)) for settings in told] == [8, 2, 1, 8, 7]


def test_an_impossible_number_of_workers_is_refused(serve: Serve, napkin: Path) -> None:
    command = serve("--artefacts", str(napkin), "--port", "0", "--workers", "0")

    assert command.wait() == 2
    assert "setting workers" in command.errors()
