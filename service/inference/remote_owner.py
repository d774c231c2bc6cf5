"""The owner's end of the socket: questions of every front go into one engine, so that they share its batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

from service.deadline import Deadline
from service.errors import ModelFailed, RequestError
from service.inference.engine import Engine, Model, Operation, Row
from service.inference.remote_frames import (
    ASK,
    CANCEL,
    RANK,
    Ask,
    FrameError,
    FrameReader,
    Greeting,
    pack_answer,
    pack_hello,
    pack_refusal,
    unpack_ask,
    unpack_cancel,
    unpack_rank,
)
from service.logs import Logger, describe


class OwnedModel(Model, Protocol):
    """A model that this process runs."""

    @property
    def sha256(self) -> str:
        """Digest of its manifest."""

    @property
    def device(self) -> str:
        """Execution provider it runs on."""

    @property
    def top_k(self) -> str:
        """Name of its backend."""

    @property
    def top_k_recall(self) -> float | None:
        """Of the best 20; none where top-k is exact."""

    def fault_of(self, operation: Operation, row: Row) -> str | None:
        """What is wrong with a row that would fail every row of its batch; None where nothing is."""


class EngineOwner:
    """Serves an engine to the fronts that connect.

    Args:
        engine: started; shared by all fronts.
        models: what a front may ask for; told to each in the greeting.
    """

    def __init__(self, engine: Engine, models: Sequence[OwnedModel], log: Logger) -> None:
        self.engine, self.models, self.log = engine, models, log
        self._fronts: set[_Front] = set()
        self._alone = asyncio.Event()
        self._alone.set()
        self._server: asyncio.Server | None = None

    async def listen(self, path: Path) -> None:
        """Answers on a Unix socket at `path`; one that a killed predecessor left there is replaced."""
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Front(self), str(path))

    async def until_alone(self) -> None:
        """Returns once no front is connected."""
        await self._alone.wait()

    def joined(self, front: _Front) -> None:
        self._fronts.add(front)
        self._alone.clear()
        self.log.info("front_connected", fronts=len(self._fronts))

    def left(self, front: _Front, n_open: int) -> None:
        self._fronts.discard(front)
        if not self._fronts:
            self._alone.set()
        self.log.info("front_lost", fronts=len(self._fronts), open=n_open)

    def close(self) -> None:
        """No further questions; runs in progress may end."""
        if self._server is not None:
            self._server.close()
        for front in tuple(self._fronts):
            front.close()
        self.engine.stop()


class _Front(asyncio.Protocol):
    """One connected front and its open questions."""

    def __init__(self, owner: EngineOwner) -> None:
        self._owner = owner
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._open: dict[int, asyncio.Task[None]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by name
        self._owner.joined(self)
        models = [
            Greeting(model.label, model.sha256, model.device, model.top_k, model.top_k_recall)
            for model in self._owner.models
        ]
        transport.write(pack_hello(models))

    def connection_lost(self, error: Exception | None) -> None:
        self._owner.left(self, len(self._open))
        for task in self._open.values():
            task.cancel()  # nobody would hear the answer: what has not begun leaves the queue

    # A front that does not read its answers is not read either, until it does.
    def pause_writing(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        try:
            for kind, payload in self._reader.feed(data):
                self._take(kind, payload)
        except FrameError as error:
            self._owner.log.error("front_frame_refused", found=str(error))
            self.close()

    def eof_received(self) -> None:
        if not self._reader.is_empty:
            self._owner.log.warning("front_frame_cut_off")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _take(self, kind: int, payload: memoryview) -> None:
        if kind in (ASK, RANK):
            ask = unpack_ask(payload) if kind == ASK else unpack_rank(payload)
            model = self._model_of(ask)
            if ask.id in self._open:
                raise FrameError("an ASK with the id of an open one")
            task = asyncio.get_running_loop().create_task(self._answer(ask, model))
            self._open[ask.id] = task
        elif kind == CANCEL:
            task_ = self._open.get(unpack_cancel(payload))
            if task_ is not None:  # else the answer is on its way
                task_.cancel()
        else:
            raise FrameError(f"a frame of kind {kind} from a front")

    def _model_of(self, ask: Ask) -> OwnedModel:
        """The model that is asked, where it can answer."""
        if ask.model >= len(self._owner.models):
            raise FrameError(f"an ASK for model {ask.model}, there are {len(self._owner.models)}")
        model = self._owner.models[ask.model]
        if fault := model.fault_of(ask.operation, ask.row):
            raise FrameError(f"an ASK with {fault}")
        return model

    async def _answer(self, ask: Ask, model: OwnedModel) -> None:
        deadline = Deadline(ask.granted_ms, time.monotonic(), ask.ends_at)
        try:
            ranked = await self._owner.engine.run(
                model, ask.operation, ask.row, ask.k, ask.excluded, deadline, bulk=ask.bulk
            )
        except RequestError as error:
            if isinstance(error, ModelFailed):
                self._owner.log.error("model_failed", model=model.label, **describe(error.__cause__ or error))
            self._send(pack_refusal(ask.id, error))
        else:
            self._send(pack_answer(ask.id, ranked))
        finally:
            self._open.pop(ask.id, None)

    def _send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
