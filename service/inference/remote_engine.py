"""`Engine` for a process that answers HTTP while another one, the owner, runs the models.

One connection, kept open and made anew whenever it ends. While it is away every request hears `EngineUnavailable` at
once and the ladder decides what follows; nothing waits for the owner's return.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from service.deadline import Deadline
from service.errors import DeadlineExceeded, EngineUnavailable, Overloaded, RequestError
from service.inference.engine import Model, Operation, Ranked, Row
from service.inference.ranker import RankRow
from service.inference.remote_frames import (
    ANSWER,
    HELLO,
    REFUSAL,
    FrameError,
    FrameReader,
    Greeting,
    pack_ask,
    pack_cancel,
    pack_rank,
    unpack_answer,
    unpack_hello,
    unpack_refusal,
)
from service.logs import Logger
from service.metrics import Metrics
from service.timeouts import Timeouts

# Pauses before successive tries to connect; the last one repeats. A try costs some 50 us.
_PAUSES_S = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
_HELLO_TIMEOUT_S = 5.0
_DISAGREEMENT_PAUSE_S = 1.0
# More than this unsent means that the owner does not read: a few hundred requests of the largest size.
_UNSENT_BYTES = 1 << 20


class ModelElsewhere(Protocol):
    """A model of which this process holds the catalogue."""

    # Told by the owner.
    device: str
    top_k: str
    top_k_recall: float | None

    @property
    def label(self) -> str:
        """name@version."""

    @property
    def sha256(self) -> str:
        """Digest of its manifest."""


class RemoteEngine:
    """`Engine` over a Unix socket.

    Args:
        path: the owner's socket.
        models: what the owner must have, by label and digest; with another set it is not talked to.
        max_waiting: most rows asked and not answered, and most rows of bulk work.
        on_change: told True when the owner is there and has the models, False when it goes; in the event loop.
    """

    def __init__(
        self,
        path: Path,
        models: Sequence[ModelElsewhere],
        metrics: Metrics,
        log: Logger,
        *,
        max_waiting: int,
        on_change: Callable[[bool], None] = lambda connected: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._models = path, models
        self._metrics, self._log = metrics, log
        self._max_waiting, self._on_change, self._clock = max_waiting, on_change, clock
        self._link: _Link | None = None
        self._places: dict[str, int] = {}
        self._connected = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None
        self._timeouts: Timeouts | None = None

    def start(self) -> None:
        """Begins to connect. Call from the event loop that will ask."""
        self._timeouts = Timeouts(asyncio.get_running_loop())
        self._connecting = asyncio.get_running_loop().create_task(self._keep_connected(), name="engine connection")

    def stop(self) -> None:
        """Closes the connection; whoever still waits hears that the engine is away."""
        if self._connecting is not None:
            self._connecting.cancel()

    async def until_connected(self) -> None:
        """Returns once the owner is there and has the models."""
        await self._connected.wait()

    @property
    def n_waiting(self) -> int:
        """Rows asked and not answered."""
        return 0 if self._link is None else len(self._link.waiting)

    async def run(
        self,
        model: Model,
        operation: Operation,
        row: Row,
        k: int,
        excluded: NDArray[np.int64],
        deadline: Deadline,
        *,
        bulk: bool = False,
    ) -> Ranked:
        """See `Engine.run`.

        Raises:
            EngineUnavailable: besides those, the owner is away or went away.
        """
        link = self._link
        if link is None:
            self._metrics.shed.labels("engine_unavailable").inc()
            raise EngineUnavailable("The engine process is away.", retry_after_s=1)
        left_s = deadline.left_s
        if left_s <= 0:
            self._metrics.deadline_exceeded.labels("queue").inc()
            raise DeadlineExceeded("The budget ended before the model was asked.")
        if link.n_waiting[bulk] >= self._max_waiting or link.is_clogged:
            self._metrics.shed.labels("queue_full").inc()
            raise Overloaded("More requests are waiting than the budget allows for.", retry_after_s=1)
        place = self._places[model.label]

        def packed(id_: int) -> bytes:
            if isinstance(row, RankRow):
                return pack_rank(id_, place, row, deadline, bulk=bulk)
            return pack_ask(id_, place, operation, row, k, excluded, deadline, bulk=bulk)

        id_, answer = link.ask(packed, bulk)
        assert self._timeouts is not None, "start comes first"
        self._timeouts.add(left_s, answer, partial(link.expire, id_))
        try:
            return await answer
        except asyncio.CancelledError:
            link.cancel(id_)
            raise

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        tries = 0
        while True:
            await asyncio.sleep(_PAUSES_S[min(tries, len(_PAUSES_S) - 1)])
            tries += 1
            link = _Link(self._log)
            try:
                await loop.create_unix_connection(lambda link=link: link, str(self._path))  # type: ignore[misc]
            except OSError:
                continue  # not there yet
            try:
                if await self._agrees(link):
                    tries = 0
                    await self._until_lost(link)
                else:
                    await asyncio.sleep(_DISAGREEMENT_PAUSE_S)
            finally:
                link.close()

    async def _until_lost(self, link: _Link) -> None:
        self._link = link
        self._connected.set()
        self._on_change(True)
        self._log.info("engine_connected", models=[model.label for model in self._models])
        try:
            await link.until_lost()
        finally:
            self._link = None
            self._connected.clear()
            self._on_change(False)
        self._log.warning("engine_lost")

    async def _agrees(self, link: _Link) -> bool:
        try:
            async with asyncio.timeout(_HELLO_TIMEOUT_S):
                greetings = await link.hello
        except (TimeoutError, EngineUnavailable):
            return False
        theirs = {(greeting.label, greeting.sha256): place for place, greeting in enumerate(greetings)}
        missing = [model.label for model in self._models if (model.label, model.sha256) not in theirs]
        if missing:
            self._log.error("engine_has_other_models", missing=missing, has=[each.label for each in greetings])
            return False
        for model in self._models:
            place = theirs[model.label, model.sha256]
            greeting = greetings[place]
            self._places[model.label] = place
            model.device, model.top_k, model.top_k_recall = greeting.device, greeting.top_k, greeting.recall
        return True


class _Link(asyncio.Protocol):
    """One connection, and who waits for an answer on it."""

    def __init__(self, log: Logger) -> None:
        loop = asyncio.get_running_loop()
        self._log, self._loop = log, loop
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._lost = asyncio.Event()
        self._next_id = 0
        self.hello: asyncio.Future[list[Greeting]] = loop.create_future()
        self.waiting: dict[int, tuple[asyncio.Future[Ranked], bool]] = {}
        self.n_waiting = [0, 0]  # requests, bulk
        self.is_clogged = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by name
        transport.set_write_buffer_limits(high=_UNSENT_BYTES)

    def pause_writing(self) -> None:
        self.is_clogged = True

    def resume_writing(self) -> None:
        self.is_clogged = False

    def connection_lost(self, error: Exception | None) -> None:
        self._lost.set()
        away = EngineUnavailable("The engine process went away.", retry_after_s=1)
        if not self.hello.done():
            self.hello.set_exception(away)
            self.hello.exception()  # looked at, whoever waits
        for answer, _ in self.waiting.values():
            if not answer.done():
                answer.set_exception(away)
        self.waiting.clear()
        self.n_waiting = [0, 0]

    def data_received(self, data: bytes) -> None:
        try:
            for kind, payload in self._reader.feed(data):
                self._take(kind, payload)
        except FrameError as error:
            self._log.error("engine_frame_refused", found=str(error))
            self.close()

    def ask(self, pack: Callable[[int], bytes], bulk: bool) -> tuple[int, asyncio.Future[Ranked]]:
        """Sends what `pack` makes for a new id; the id and who will have the answer."""
        id_ = self._next_id = (self._next_id + 1) & 0xFFFFFFFF
        answer: asyncio.Future[Ranked] = self._loop.create_future()
        self._send(pack(id_))
        self.waiting[id_] = answer, bulk
        self.n_waiting[bulk] += 1
        return id_, answer

    def expire(self, id_: int) -> None:
        """The asker's budget is over. The owner knows the same deadline, and counts it: nothing needs to be said."""
        self._settle(id_, DeadlineExceeded("The budget ended while the model was asked."))

    def cancel(self, id_: int) -> None:
        """The asker has gone: the owner need not begin."""
        if self._forget(id_) is not None:
            self._send(pack_cancel(id_))

    async def until_lost(self) -> None:
        await self._lost.wait()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _take(self, kind: int, payload: memoryview) -> None:
        if kind == ANSWER:
            id_, ranked = unpack_answer(payload)
            self._settle(id_, ranked)
        elif kind == REFUSAL:
            id_, refusal = unpack_refusal(payload)
            self._settle(id_, refusal)
        elif kind == HELLO and not self.hello.done():
            self.hello.set_result(unpack_hello(payload))
        else:
            raise FrameError(f"a frame of kind {kind} from the owner")

    def _settle(self, id_: int, outcome: Ranked | RequestError) -> None:
        answer = self._forget(id_)
        if answer is None or answer.done():
            return  # expired or cancelled meanwhile
        if isinstance(outcome, Ranked):
            answer.set_result(outcome)
        else:
            answer.set_exception(outcome)

    def _forget(self, id_: int) -> asyncio.Future[Ranked] | None:
        answer, bulk = self.waiting.pop(id_, (None, False))
        if answer is not None:
            self.n_waiting[bulk] -= 1
        return answer
