"""The engine process: owns the models and their device, and answers whichever front asks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import uvloop

from service.errors import SettingsError
from service.inference.local_engine import LocalEngine
from service.inference.remote_owner import EngineOwner
from service.logs import Logger
from service.metrics import Metrics
from service.processes.line import Line, Orders
from service.registry import load_registry
from service.server import settle
from service.settings import Settings

# A process that hangs says nothing; one whose run hangs in native code has nothing good to say.
_BEAT_S = 1.0
_LONGEST_RUN_S = 30.0


def own(line: Line, orders: Orders, settings: Settings, log: Logger) -> int:
    """Serves the fronts until the supervisor lets go of the line and the last front has gone; the exit code.

    Signals that a whole group of processes gets are ignored: the fronts need their engine until their last answer.

    Raises:
        SettingsError, ArtefactError: nothing can be served.
    """
    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, signal.SIG_IGN)
    if orders.engine_socket is None:
        raise SettingsError("an engine process without a socket")
    stop = _Stop()
    line.when_cut(stop.ask)
    registry = load_registry(settings, scenarios=orders.scenarios)
    engine = LocalEngine(Metrics(orders.metrics_folder), max_batch=settings.max_batch, max_waiting=settings.max_waiting)
    engine.warm(registry.models)
    settle()
    owner = EngineOwner(engine, [*registry.models, *registry.rankers], log)
    uvloop.run(_serve(line, orders.engine_socket, settings, owner, engine, stop))
    return 0


class _Stop:
    """Asked for from another thread; before there is a loop to tell, the process ends on the spot."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked = asyncio.Event()

    def ask(self) -> None:
        if self._loop is None:
            os._exit(0)
        self._loop.call_soon_threadsafe(self._asked.set)

    async def until_asked(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._asked.wait()


async def _serve(
    line: Line, path: Path, settings: Settings, owner: EngineOwner, engine: LocalEngine, stop: _Stop
) -> None:
    engine.start()
    await owner.listen(path)
    line.tell("ready", ", ".join(f"{model.label} on {model.device}" for model in owner.models))
    beating = asyncio.get_running_loop().create_task(beat(line, engine), name="beat")
    await stop.until_asked()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settings.drain_linger_s + settings.drain_timeout_s):
            await owner.until_alone()
    beating.cancel()
    owner.close()


async def beat(line: Line, engine: LocalEngine) -> None:
    """Tells the supervisor that the process is alive, as long as its engine gets on."""
    while True:
        if engine.run_s < _LONGEST_RUN_S:
            line.beat()
        await asyncio.sleep(_BEAT_S)
