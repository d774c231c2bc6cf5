"""An engine process that lives but does not work is found out, killed and started again."""

from __future__ import annotations

import asyncio
import io
import socket
from collections import deque

import pytest
from napkin import ManualClock

from service.inference.local_engine import LocalEngine
from service.logs import make_logger
from service.metrics import Metrics
from service.processes import owner, supervisor
from service.processes.line import Line, Told
from service.processes.supervisor import Supervisor
from service.scenarios import ScenariosFile
from service.settings import Settings

LIMIT_S = 30.0
READY, ALIVE = Told(what="ready", text="1 model"), Told(what="alive", text="")


class Process:
    """Says what it was given, then nothing until it is killed."""

    def __init__(self, pid: int, *words: Told) -> None:
        self.pid, self.was_ready = pid, False
        self._words, self._killed = deque(words), asyncio.Event()

    async def next_told(self) -> Told | None:
        if self._words:
            return self._words.popleft()
        await self._killed.wait()
        return None

    async def ended(self) -> int:
        await self._killed.wait()
        return -9

    def kill(self) -> None:
        self._killed.set()


async def test_an_engine_process_that_falls_silent_is_killed_and_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "SILENT_S", 0.01)
    monkeypatch.setattr(supervisor, "_LAST_WORD_S", 0.01)
    monkeypatch.setattr(supervisor, "_BACKOFF_S", (0.0,))
    started: list[Process] = []
    third = asyncio.Event()

    async def start(*arguments: object) -> Process:
        started.append(Process(len(started), READY, ALIVE, ALIVE))
        if len(started) == 3:
            third.set()
        return started[-1]

    monkeypatch.setattr(supervisor._Process, "start", start)
    log = io.BytesIO()
    settings = Settings(engine_process=True, log_format="json")
    scenarios = ScenariosFile.model_validate({"scenario": {"home": {"retriever": "napkin@1"}}})
    watched = Supervisor(settings, 0, "", scenarios, make_logger(settings, log), lambda text: None)

    keeping = asyncio.create_task(watched._keep("engine", "engine"))
    async with asyncio.timeout(LIMIT_S):
        await third.wait()
    keeping.cancel()

    assert log.getvalue().count(b'"event":"process_hangs"') == 2
    assert [process._killed.is_set() for process in started] == [True, True, False]


async def test_what_was_said_while_the_supervisor_slept_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "SILENT_S", 0.0)  # over before the first word can be read
    settings = Settings(engine_process=True)
    scenarios = ScenariosFile.model_validate({"scenario": {"home": {"retriever": "napkin@1"}}})
    watched = Supervisor(settings, 0, "", scenarios, make_logger(settings, io.BytesIO()), lambda text: None)
    process = Process(1)
    process.was_ready = True

    async def late() -> Told:
        await asyncio.sleep(0)
        return ALIVE

    monkeypatch.setattr(process, "next_told", late)

    assert await watched._next_told("engine", "engine", process) == ALIVE
    assert not process._killed.is_set()


async def test_a_process_whose_run_does_not_end_stops_saying_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "_BEAT_S", 0)
    clock, (ours, theirs) = ManualClock(), socket.socketpair()
    engine = LocalEngine(Metrics(), max_batch=1, max_waiting=1, clock=clock)
    line = Line(theirs.detach())
    ours.setblocking(False)

    def heard() -> bytes:
        try:
            return ours.recv(1 << 16)
        except BlockingIOError:
            return b""

    beating = asyncio.create_task(owner.beat(line, engine))
    await asyncio.sleep(0)
    assert heard().splitlines()[0] == b'{"what":"alive","text":""}'

    engine._run_began_at = clock()
    clock.advance(29)
    await asyncio.sleep(0)
    assert heard()
    clock.advance(2)
    await asyncio.sleep(0)
    heard()
    await asyncio.sleep(0)
    assert heard() == b""

    beating.cancel()
    ours.close()
    line._socket.close()
    line._stream.close()
