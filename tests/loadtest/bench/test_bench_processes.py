"""Started servers: watched, paused, and gone in the end with all they started."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.bench.machine import Cores, divide, parse_cores
from loadtest.bench.processes import MachineTime, Running, machine_time, started, tree
from loadtest.bench.servers import ROOT, Place, afterglow
from loadtest.errors import InputError, ServiceError


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_the_service_that_is_measured_is_that_of_the_checkout_named(tmp_path: Path) -> None:
    """Also where the benchmark itself is started in another one."""
    service = tmp_path / "service"
    service.mkdir()
    (service / "__init__.py").touch()
    (service / "__main__.py").write_text("print(__file__)")
    setting = afterglow(Place(tmp_path, tmp_path, tmp_path, tmp_path), root=tmp_path).settings[0]

    done = subprocess.run(
        list(setting.command(0)),
        env={**os.environ, **setting.environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert Path(done.stdout.strip()) == service / "__main__.py"


def test_use_counts_the_processes_and_their_memory(answerer: Running) -> None:
    use = answerer.use()
    assert use.n_processes == 1
    assert use.pss_mb > 1
    assert 1 < use.anonymous_mb < 500
    assert use.n_fds >= 4  # three standard ones and the listener


def test_the_machines_work_is_told_from_what_its_host_took(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 30 1000 5 2 3 40 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    assert machine_time(stat) == MachineTime(busy_s=155 * tick_s, stolen_s=40 * tick_s)  # idle and waiting are neither


def test_a_paused_server_stands_still_until_it_is_resumed(answerer: Running) -> None:
    def state() -> str:
        return Path(f"/proc/{answerer.pid}/stat").read_text().rpartition(")")[2].split()[0]

    answerer.pause()
    assert until(lambda: state() == "T")
    answerer.resume()
    assert until(lambda: state() != "T")


def test_children_of_a_server_end_with_it(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "from loadtest.bench.answerer import serve\n"
        "serve(int(sys.argv[1]))\n"
    )
    root = str(Path(__file__).parents[3])
    with started(
        lambda port: [sys.executable, str(script), str(port)],
        log=tmp_path / "log",
        cores=[0],
        environment={"PYTHONPATH": root},
        ready="/",
    ) as running:
        pids = tree(running.pid)
        assert len(pids) == 2
    assert until(lambda: not any(Path(f"/proc/{pid}").exists() and _lives(pid) for pid in pids))


def test_a_server_that_ends_at_once_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
    with (
        pytest.raises(ServiceError, match="code 1\nno such model"),
        started(lambda port: command, log=tmp_path / "log", cores=[0], environment={}, ready="/"),
    ):
        pass


def test_two_cores_are_shared_with_the_generator_and_more_are_divided() -> None:
    assert divide([0, 1]) == Cores((0, 1), (1,))
    assert divide([0, 1]).are_shared
    assert divide(range(8)) == Cores((0, 1, 2, 3, 4, 5), (6, 7))
    assert not divide(range(8)).are_shared


def test_cores_are_read_as_a_list_of_ranges() -> None:
    available = sorted(os.sched_getaffinity(0))
    first = available[0]
    assert parse_cores(f"{first}") == (first,)
    assert parse_cores(f"{first}-{first}") == (first,)
    assert parse_cores(None) is None
    with pytest.raises(InputError, match="not of the form"):
        parse_cores("all")
    with pytest.raises(InputError, match="not available"):
        parse_cores("4096")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
