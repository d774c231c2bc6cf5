"""A process that answers HTTP, with models of its own or as a front of the engine process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable

from service.announcement import announcement
from service.app import create_app
from service.deadline import Clock
from service.inference.engine import Engine
from service.inference.remote_engine import RemoteEngine
from service.logs import Logger
from service.metrics import Metrics
from service.processes.line import Line, Orders
from service.registry import Registry, load_registry
from service.server import DrainingServer, join, settle
from service.service import Service, local_engine
from service.settings import Settings
from service.state.redis_store import RedisStore
from service.state.store import Limits

# A front that starts while the engine is away opens its port after this long all the same: lower tiers beat no answer.
_ENGINE_WAIT_S = 1.0


def work(line: Line, orders: Orders, settings: Settings, log: Logger) -> int:
    """Serves until SIGTERM, SIGINT or the end of the supervisor; the exit code.

    The port is listened on only when the models are ready: the kernel hands each listening process its share of the
    connections, whether it can answer or not.

    Raises:
        SettingsError, ArtefactError: nothing can be served.
    """
    line.when_cut(lambda: os.kill(os.getpid(), signal.SIGTERM))
    with join(settings, orders.port) as listener:
        started = time.monotonic()
        registry = load_registry(settings, scenarios=orders.scenarios, open_only=orders.engine_socket is not None)
        service = _PromptService(settings, orders, registry, log)
        log.info("worker_loaded", took_s=round(time.monotonic() - started, 3))
        server = _TellingServer(service, lambda: line.tell("ready", announcement(registry, settings.host, orders.port)))
        server.run(sockets=[listener])
    return 130 if server.stopped_by == signal.SIGINT else 0


class _PromptService(Service):
    """A service whose models are there before its port is opened."""

    def __init__(self, settings: Settings, orders: Orders, registry: Registry, log: Logger) -> None:
        def make_engine(settings: Settings, metrics: Metrics, clock: Clock) -> Engine:
            if orders.engine_socket is None:
                return local_engine(settings, metrics, clock)
            return RemoteEngine(
                orders.engine_socket,
                [*registry.models, *registry.rankers],
                metrics,
                log,
                max_waiting=settings.max_waiting,
                on_change=lambda connected: setattr(self.readiness, "engine", connected),
                clock=clock,
            )

        super().__init__(
            settings,
            RedisStore(
                orders.redis_url, limits=Limits(user_ttl_s=settings.user_ttl_s, session_ttl_s=settings.session_ttl_s)
            ),
            lambda: registry,
            make_engine=make_engine,
            log=log,
            metrics=Metrics(orders.metrics_folder),
            on_loaded=lambda registry: settle(),
        )
        self.readiness.engine = orders.engine_socket is None

    async def start(self) -> None:
        await super().start()
        await self.until_loaded()
        if isinstance(self.engine, RemoteEngine):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ENGINE_WAIT_S):
                    await self.engine.until_connected()


class _TellingServer(DrainingServer):
    """Tells once that it listens and that its models answer."""

    def __init__(self, service: Service, tell: Callable[[], None]) -> None:
        super().__init__(create_app(service), service.settings, service.readiness)
        self._service, self._tell, self._told = service, tell, False

    async def on_tick(self, counter: int) -> bool:
        if not self._told and self._service.readiness.engine:
            self._told = True
            self._tell()
        return await super().on_tick(counter)
