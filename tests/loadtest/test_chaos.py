from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from http_stand_in import FakeService

from loadtest.chaos import Fault, Ledger, Timeline, inflict, recovery, verdict, verify_stored
from loadtest.client import Client
from loadtest.errors import InputError, LoadtestError
from loadtest.recorder import Recorder, Reply
from loadtest.traffic import Call

MODEL, POPULAR = Reply(200, "model"), Reply(200, "popular", degraded=True)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


async def run_fault(fault: Fault, *, stop: asyncio.Event | None = None) -> Timeline:
    timeline, start_s = Timeline(), perf_counter()
    await inflict(fault, timeline, lambda: perf_counter() - start_s, stop or asyncio.Event())
    return timeline


async def test_a_process_is_killed_without_a_chance_to_clean_up(sleeper: subprocess.Popen[bytes]) -> None:
    timeline = await run_fault(Fault(at_s=0.01, pid=sleeper.pid))
    assert sleeper.wait(timeout=10) == -9
    assert timeline.killed_s is not None
    assert timeline.killed_s >= 0.01
    assert (timeline.returned_s, timeline.returned_by) == (timeline.killed_s, "kill")


async def test_a_process_that_is_not_there_is_named(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    sleeper.wait()
    with pytest.raises(LoadtestError, match=f"cannot kill process {sleeper.pid}"):
        await run_fault(Fault(at_s=0.01, pid=sleeper.pid))


async def test_commands_kill_restart_and_tell_of_the_return(tmp_path: Path) -> None:
    log, up = tmp_path / "log", tmp_path / "up"
    fault = Fault(
        at_s=0.01,
        kill_command=f"echo kill >> {log}",
        down_s=0.02,
        restart_command=f"echo restart >> {log}; touch {up}",
        up_command=f"echo probe >> {log}; test -e {up}",
    )
    timeline = await run_fault(fault)
    assert log.read_text().split() == ["kill", "restart", "probe"]
    assert timeline.killed_s is not None
    assert timeline.returned_s is not None
    assert timeline.returned_s >= timeline.killed_s + 0.02
    assert timeline.returned_by == "up_command"


async def test_the_return_is_polled_for_until_it_comes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    probe = f'echo probe >> {log}; test "$(wc -l < {log})" -ge 3'
    timeline = await run_fault(Fault(at_s=0.01, kill_command="true", up_command=probe))
    assert log.read_text().count("probe") == 3
    assert timeline.returned_s is not None


async def test_a_command_that_fails_is_named() -> None:
    with pytest.raises(LoadtestError, match="'exit 3' ended with exit code 3"):
        await run_fault(Fault(at_s=0.01, kill_command="exit 3"))


async def test_a_stop_before_the_fault_spares_the_process(sleeper: subprocess.Popen[bytes]) -> None:
    stop = asyncio.Event()
    stop.set()
    timeline = await run_fault(Fault(at_s=60, pid=sleeper.pid), stop=stop)
    assert sleeper.poll() is None
    assert timeline == Timeline()


async def test_what_was_killed_is_started_again_after_a_stop(tmp_path: Path) -> None:
    stop = asyncio.Event()
    kill = f"touch {tmp_path / 'killed'}"
    fault = Fault(at_s=0.01, kill_command=kill, down_s=60, restart_command=f"touch {tmp_path / 'started'}")
    running = asyncio.create_task(run_fault(fault, stop=stop))
    async with asyncio.timeout(10):
        while not (tmp_path / "killed").exists():  # noqa: ASYNC110 - another process makes the file
            await asyncio.sleep(0.005)
        stop.set()
        await running
    assert (tmp_path / "started").exists()


@pytest.mark.parametrize("wrong", [{}, {"pid": 1, "kill_command": "x"}, {"pid": 1, "at_s": 0.0}])
def test_a_fault_without_one_clear_way_to_harm_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Fault(**{"at_s": 1.0, **wrong})


def recorded(*rows: tuple[float, Reply]) -> Recorder:
    """Recommend requests planned at the given seconds, each answered 0.1 s later."""
    recorder = Recorder()
    for at_s, reply in rows:
        recorder.add("recommend", planned_s=at_s, started_s=at_s, sent_s=at_s, done_s=round(at_s + 0.1, 3), reply=reply)
    return recorder


def test_recovery_is_counted_from_the_return() -> None:
    recorder = recorded((1, MODEL), (2, POPULAR), (3, POPULAR), (5.5, POPULAR), (6, MODEL), (7, MODEL), (9, POPULAR))
    found = recovery(recorder, Timeline(killed_s=1.5, returned_s=5, returned_by="restart_command"), back_within_s=3)
    assert found["degraded_share_before_kill"] == 0.0
    assert found["first_degraded_after_kill_s"] == pytest.approx(0.6)
    assert found["back_to_model_s"] == pytest.approx(1.1)
    assert found["last_degraded_s"] == pytest.approx(4.1)
    assert found["degraded_share_after_promise"] == 1.0
    assert found["recommend_degraded"] == 4
    assert found["recommend_errors"] == 0


def test_a_reply_before_the_fault_was_noticed_is_no_recovery() -> None:
    recorder = recorded((1.01, MODEL), (2, POPULAR), (3, MODEL))
    found = recovery(recorder, Timeline(killed_s=1, returned_s=1, returned_by="kill"), back_within_s=3)
    assert found["back_to_model_s"] == pytest.approx(2.1)


def test_errors_of_recommend_are_told_apart() -> None:
    recorder = recorded((1, MODEL), (2, Reply(500, fault="http_500")), (3, Reply(0, fault="timeout")))
    found = recovery(recorder, Timeline(), back_within_s=3)
    assert (found["recommend_5xx"], found["recommend_without_reply"], found["recommend_errors"]) == (1, 1, 2)
    assert found["back_to_model_s"] is None


def events(user_id: str | None, *event_ids: str) -> Call:
    return Call("events", "/v1/events", b"", tuple((user_id, event_id) for event_id in event_ids))


def test_the_ledger_books_by_what_was_promised() -> None:
    ledger = Ledger()
    ledger.note(events("u", "e1", "e2"), Reply(202, durability="stored"), 0.0)
    ledger.note(events("u", "e3"), Reply(202, durability="queued"), 0.0)
    ledger.note(events("u", "e4"), Reply(503, fault="http_503"), 0.0)
    ledger.note(events(None, "e5"), Reply(202, durability="stored"), 0.0)
    ledger.note(Call("recommend", "/v1/recommend", b""), MODEL, 0.0)
    assert (ledger.stored, ledger.queued, ledger.refused) == ({"u": {"e1", "e2"}}, 1, 1)


async def test_a_stored_event_that_is_gone_is_found(fake_service: FakeService) -> None:
    fake_service.events = {"u": [{"event_id": "e1"}, {"event_id": "other"}], "v": [{"event_id": "e3"}]}
    ledger = Ledger(stored={"u": {"e1", "e2"}, "v": {"e3"}, "nobody": {"e4"}})
    async with Client(fake_service.url) as client:
        found = await verify_stored(client, ledger, stop=asyncio.Event())
    assert (found["events_stored"], found["events_checked"], found["users_checked"]) == (4, 4, 3)
    assert found["events_missing"] == 2
    assert found["missing"] == [
        {"user_id": "nobody", "event_ids": ["e4"]},
        {"user_id": "u", "event_ids": ["e2"]},
    ]
    assert found["complete"] is True


async def test_a_user_that_cannot_be_looked_up_is_not_called_safe(fake_service: FakeService) -> None:
    fake_service.fail_with = 503
    async with Client(fake_service.url) as client:
        found = await verify_stored(client, Ledger(stored={"u": {"e1"}}), stop=asyncio.Event())
    assert (found["users_unreadable"], found["events_missing"], found["complete"]) == (1, 0, False)


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({}, []),
        ({"recommend_errors": 1}, ["no_5xx_or_lost_reply_from_recommend"]),
        ({"back_to_model_s": 3.1}, ["back_to_model_in_time"]),
        ({"back_to_model_s": None}, ["back_to_model_in_time"]),
        ({"events_missing": 1}, ["no_stored_event_missing"]),
        ({"complete": False}, ["no_stored_event_missing"]),
    ],
)
def test_promises_are_judged(change: dict[str, Any], broken: list[str]) -> None:
    facts = {"recommend_errors": 0, "back_to_model_s": 3.0, "events_missing": 0, "complete": True, **change}
    judged = verdict(facts, facts, back_within_s=3.0)
    assert [promise for promise, kept in judged.items() if not kept] == broken
