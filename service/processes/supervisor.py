"""Starts the processes of a service, watches them, starts again what dies, and stops all of them in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

from service.errors import AfterglowError, ArtefactError, SettingsError
from service.logs import Logger
from service.processes.line import Orders, Role, Told, as_line, plain
from service.scenarios import ScenariosFile
from service.settings import Settings

# Of what a process tells: a refusal lists every reason.
_LINE_BYTES = 1 << 22
LIVED_LONG_S = 10.0  # a process that ran for this long starts the back-off anew
# An engine process that has been ready and says nothing for so long hangs: it speaks every second.
SILENT_S = 15.0
_LAST_WORD_S = 1.0  # where it was us who slept, its words wait to be read
_BACKOFF_S = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
# What stopping may take on top of the time that requests in flight get: writing queued events, closing connections.
_STOP_MARGIN_S = 5.0
_FAILURES: dict[str, type[AfterglowError]] = {"settings": SettingsError, "refused": ArtefactError}


class ProcessDied(AfterglowError):
    """A process ended before it was ready for the first time, and could not say why."""


class Supervisor:
    """The parent of `workers` processes and, with `engine_process`, of one more.

    Args:
        port: reserved by the caller, who holds it as long as we run.
        scenarios: with every pointer at one version.
        on_ready: told what the command shall say once every process has been ready.
    """

    def __init__(
        self,
        settings: Settings,
        port: int,
        redis_url: str,
        scenarios: ScenariosFile,
        log: Logger,
        on_ready: Callable[[str], None],
    ) -> None:
        # Hashes of users must agree across processes.
        salt = settings.log_salt or SecretStr(secrets.token_hex(32))
        self._settings = settings.model_copy(update={"log_salt": salt})
        self._port, self._redis_url, self._scenarios = port, redis_url, scenarios
        self._log, self._on_ready = log, on_ready
        self._folder = Path()
        self._running: dict[str, _Process] = {}
        self._never_ready: set[str] = set()
        self._announcement = ""
        self._stop = asyncio.Event()
        self._stopped_by: signal.Signals | None = None
        self._failure: AfterglowError | None = None

    async def run(self) -> signal.Signals | None:
        """Returns when everything has ended, with the signal that asked for it.

        Raises:
            SettingsError, ArtefactError, ProcessDied: one could not begin; the others have been stopped.
        """
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, self._on_signal, sig)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        names: dict[str, Role] = {f"worker-{number}": "worker" for number in range(1, self._settings.workers + 1)}
        if self._settings.engine_process:
            names = {"engine": "engine", **names}
        self._never_ready = set(names)
        with tempfile.TemporaryDirectory(prefix="afterglow-", dir=_short_temporary_folder()) as folder:
            self._folder = Path(folder)
            (self._folder / "metrics").mkdir()
            keeping = [loop.create_task(self._keep(name, role), name=name) for name, role in names.items()]
            for task in keeping:
                task.add_done_callback(lambda _task: self._stop.set())  # ends early only by what nobody foresaw
            await self._stop.wait()
            await self._stop_all()
            await asyncio.gather(*keeping)
        if self._failure is not None:
            raise self._failure
        return self._stopped_by

    def _on_signal(self, sig: signal.Signals) -> None:
        if self._stopped_by is not None and sig == signal.SIGINT:  # an impatient second one
            self._tell_workers(sig)
            return
        self._stopped_by = self._stopped_by or sig
        self._stop.set()

    async def _keep(self, name: str, role: Role) -> None:
        """Starts the process, again and again, until everything stops."""
        quick_deaths = 0
        while not self._stop.is_set():
            began = time.monotonic()
            process = await _Process.start(self._orders(name, role), self._environment())
            self._running[name] = process
            if self._stop.is_set():  # asked for while it was being started
                process.kill()
            while (told := await self._next_told(name, role, process)) is not None:
                if told.what == "ready":
                    process.was_ready = True
                    self._on_process_ready(name, role, told.text, process.pid, time.monotonic() - began)
                elif told.what != "alive":
                    break
            code = await process.ended()
            del self._running[name]
            self._forget_metrics(process.pid)
            if self._stop.is_set():
                return
            if name in self._never_ready:
                died = ProcessDied(f"{name} ended with code {code} before it was ready")
                self._failure = _FAILURES[told.what](told.text) if told else died
                self._stop.set()
                return
            lived_s = time.monotonic() - began
            quick_deaths = 0 if lived_s > LIVED_LONG_S else quick_deaths + 1
            pause_s = _BACKOFF_S[min(quick_deaths, len(_BACKOFF_S) - 1)]
            why_again = {"why": told.text} if told else {}
            self._log.warning(
                "process_died",
                process=name,
                pid=process.pid,
                code=code,
                lived_s=round(lived_s, 3),
                restart_in_s=pause_s,
                **why_again,
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stop.wait()

    async def _next_told(self, name: str, role: Role, process: _Process) -> Told | None:
        """What the process says next; an engine process that hangs is killed, and says nothing more."""
        if role != "engine" or not process.was_ready:
            return await process.next_told()
        for limit_s in (SILENT_S, _LAST_WORD_S):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    return await process.next_told()
        self._log.error("process_hangs", process=name, pid=process.pid, silent_s=SILENT_S)
        process.kill()
        return None

    def _on_process_ready(self, name: str, role: Role, text: str, pid: int, took_s: float) -> None:
        self._log.info("process_ready", process=name, pid=pid, took_s=round(took_s, 3))
        if not self._never_ready:
            return
        self._never_ready.discard(name)
        if role == "worker":
            self._announcement = text
        if not self._never_ready:
            self._on_ready(self._announcement)

    async def _stop_all(self) -> None:
        """Workers first: their last answers still need the engine."""
        self._log.info("stopping", by=self._stopped_by.name if self._stopped_by else "failure")
        orderly = self._stopped_by or signal.SIGINT
        linger_s = self._settings.drain_linger_s if orderly == signal.SIGTERM else 0.0
        self._tell_workers(orderly)
        await self._until_ended(
            lambda name: name != "engine", linger_s + self._settings.drain_timeout_s + _STOP_MARGIN_S
        )
        for process in self._running.values():
            process.let_go()
        await self._until_ended(lambda name: True, _STOP_MARGIN_S)

    def _tell_workers(self, sig: signal.Signals) -> None:
        for name, process in self._running.items():
            if name != "engine":
                # Before that it has nothing to finish; and in the middle of imports SIGINT would end in a traceback.
                process.signal(sig if process.was_ready else signal.SIGTERM)

    async def _until_ended(self, chosen: Callable[[str], bool], limit_s: float) -> None:
        """Waits for the chosen processes; who takes longer is killed."""
        waiting = {name: process for name, process in self._running.items() if chosen(name)}
        if not waiting:
            return
        ends = [asyncio.ensure_future(process.ended()) for process in waiting.values()]
        _, late = await asyncio.wait(ends, timeout=limit_s)
        for name, process in waiting.items():
            if process.is_alive:
                self._log.warning("process_killed", process=name, pid=process.pid, waited_s=limit_s)
                process.kill()
        if late:
            await asyncio.wait(late)

    def _orders(self, name: str, role: Role) -> Orders:
        return Orders(
            name=name,
            role=role,
            settings=plain(self._settings),
            port=self._port,
            redis_url=self._redis_url,
            scenarios=self._scenarios,
            engine_socket=self._folder / "engine.sock" if self._settings.engine_process else None,
            metrics_folder=self._folder / "metrics",
        )

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PROMETHEUS_MULTIPROC_DIR": str(self._folder / "metrics"),  # read when prometheus_client is imported
        }

    def _forget_metrics(self, pid: int) -> None:
        """Gauges of a dead process; its counters stay, so that sums never fall."""
        for path in (self._folder / "metrics").glob(f"gauge_live*_{pid}.db"):
            path.unlink(missing_ok=True)


def _short_temporary_folder() -> str:
    """Where a socket's path stays within the kernel's 104 to 108 bytes."""
    folder = tempfile.gettempdir()
    return folder if len(os.fsencode(folder)) <= 60 else "/tmp"


class _Process:
    """One running process and our end of its line."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process, self._reader, self._writer = process, reader, writer
        self.pid = process.pid
        self.was_ready = False

    @classmethod
    async def start(cls, orders: Orders, environment: dict[str, str]) -> _Process:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "service.processes.child",
                orders.name,
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the terminal is for us, who then stop everything in order
                env=environment,
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=_LINE_BYTES)
        writer.write(as_line(orders))
        return cls(process, reader, writer)

    async def next_told(self) -> Told | None:
        """What the process says next; None when it will say nothing more."""
        try:
            line = await self._reader.readline()
        except OSError:
            return None
        return Told.model_validate_json(line) if line.endswith(b"\n") else None

    async def ended(self) -> int:
        """The exit code, once there is one; minus the signal where one killed it."""
        code = await self._process.wait()
        self.let_go()
        return code

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    def signal(self, sig: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(sig)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def let_go(self) -> None:
        """Closes the line: a process that ends with us takes it as the request to."""
        self._writer.close()
