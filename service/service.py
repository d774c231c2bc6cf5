"""The parts of one running process, put together; what routes and the command share."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from service.behaviour import Source
from service.deadline import Clock
from service.errors import AfterglowError, NotReady
from service.fallback import LastLists
from service.inference.engine import Engine
from service.inference.local_engine import LocalEngine
from service.intake import EventIntake
from service.logs import Logger, Pseudonyms, describe, make_logger
from service.metrics import Metrics
from service.recommender import Recommender
from service.registry import Registry
from service.served_model import ServedModel
from service.served_ranker import ServedRanker
from service.settings import Settings
from service.state.store import StateStore
from service.state.writer import EventWriter


@dataclass
class Readiness:
    """Whether traffic should come here: after the golden answers were reproduced, until a stop is asked for.

    `engine` is false while models run in another process and that one is away.
    """

    loaded: bool = False
    engine: bool = True
    draining: bool = False


def local_engine(settings: Settings, metrics: Metrics, clock: Clock) -> Engine:
    """Models in a thread of this process."""
    return LocalEngine(metrics, max_batch=settings.max_batch, max_waiting=settings.max_waiting, clock=clock)


class Service:
    """One process: settings, store, engine, and the models once they are loaded.

    Args:
        load: makes the registry; runs in a thread of its own, so that /livez answers meanwhile.
        state_name: what replies call the store.
        make_engine: where models run; by default in a thread of this process.
        on_loaded, on_failed: called in the event loop when loading has ended.
    """

    def __init__(
        self,
        settings: Settings,
        store: StateStore,
        load: Callable[[], Registry],
        *,
        state_name: Source = "redis",
        make_engine: Callable[[Settings, Metrics, Clock], Engine] = local_engine,
        log: Logger | None = None,
        metrics: Metrics | None = None,
        clock: Clock = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        on_loaded: Callable[[Registry], None] = lambda registry: None,
        on_failed: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self.settings, self.store = settings, store
        self.clock, self.wall_clock = clock, wall_clock
        self.log = log or make_logger(settings)
        self.pseudonyms = Pseudonyms(settings)
        self.metrics = metrics or Metrics()
        self.readiness = Readiness()
        self.last_lists = LastLists(settings.cached_lists)
        self.engine = make_engine(settings, self.metrics, clock)
        self.writer = EventWriter(store, settings.max_queued_events, timeout_s=settings.write_timeout_ms / 1000)
        self.intake = EventIntake(settings, self.writer, self.last_lists, self.metrics, wall_clock)
        self._load, self._state_name = load, state_name
        self._on_loaded, self._on_failed = on_loaded, on_failed
        self._recommender: Recommender | None = None
        self._loading: threading.Thread | None = None
        self._load_ended = asyncio.Event()

    @property
    def recommender(self) -> Recommender:
        """The online path.

        Raises:
            NotReady: the models are still being loaded.
        """
        if self._recommender is None:
            raise NotReady("The models are being loaded and checked.", retry_after_s=1)
        return self._recommender

    @property
    def is_loading(self) -> bool:
        return self._loading is not None and self._loading.is_alive()

    async def start(self) -> None:
        """Starts the engine, and loading in the background."""
        self.engine.start()
        loop = asyncio.get_running_loop()
        # A daemon: a stop that comes while models load does not wait for them.
        self._loading = threading.Thread(target=self._load_models, args=(loop,), name="loading", daemon=True)
        self._loading.start()

    async def until_loaded(self) -> None:
        """Returns when loading has ended, well or not."""
        await self._load_ended.wait()

    async def stop(self) -> None:
        """Ends in order: no new runs, queued events written, connections given back."""
        self.engine.stop()
        await self.writer.close()
        await self.store.close()

    async def state_answers(self) -> bool:
        try:
            await self.store.ping()
        except AfterglowError:
            return False
        return True

    def _load_models(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            registry = self._load()
            if isinstance(self.engine, LocalEngine):
                self.engine.warm(registry.models)
        except BaseException as error:  # handed over: the command decides what it means
            self._call(loop, self._failed, error)
        else:
            self._call(loop, self._loaded, registry)

    def _call(self, loop: asyncio.AbstractEventLoop, what: Callable[..., None], argument: object) -> None:
        try:
            loop.call_soon_threadsafe(what, argument)
        except RuntimeError:  # the loop has closed: the process is on its way out
            return

    def _loaded(self, registry: Registry) -> None:
        self._recommender = Recommender(
            registry,
            self.store,
            self.engine,
            self.last_lists,
            self.metrics,
            self.log,
            state_name=self._state_name,
            state_timeout_s=self.settings.state_timeout_ms / 1000,
            wall_clock=self.wall_clock,
        )
        self.intake.knows_item = registry.knows_item
        loaded: list[ServedModel | ServedRanker] = [*registry.models, *registry.rankers]
        for model in loaded:
            self.metrics.model_info.labels(model.name, model.version, model.sha256).set(1)
            self.metrics.model_load.labels(model.name, model.version).set(model.load_s)
        self.readiness.loaded = True
        self._load_ended.set()
        self._on_loaded(registry)

    def _failed(self, error: BaseException) -> None:
        if not isinstance(error, AfterglowError):
            self.log.error("loading_failed", **describe(error))
        self._load_ended.set()
        self._on_failed(error)
