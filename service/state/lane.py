"""One connection to Redis that many requests share, and that no request can interrupt.

A cancelled command is how replies have reached the wrong user elsewhere: the reply stays in the socket and the next
caller reads it. Here callers never touch the socket. They leave their commands with the lane and wait for a future; one
task writes everything that is waiting as one pipeline, reads exactly as many replies, and hands them out. A caller may
give up whenever it likes. If anything goes wrong between a write and its last reply, the connection is closed, never
reused.

    call() ──> waiting ──> worker: write all, read all ──> futures
                              │ any failure: close, fail everybody
                              └> down: calls fail at once while the worker probes (connect + PING) until it answers

So a dead or silent Redis costs requests nothing but the first `socket_timeout_s`, and its return is noticed within
`probe_s` plus one exchange, without a request having to find out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from service.errors import StoreUnavailable

Command = Sequence[str | bytes | int | float]

log = structlog.get_logger(__name__)

# Commands that share one pipeline (a call is never split). More would only let many wait for the slowest.
MAX_COMMANDS_PER_EXCHANGE = 128


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    packed: list[bytes]
    n_replies: int
    replies: asyncio.Future[list[Any]]


class Lane:
    """Sends commands over one connection of redis-py, in order of `call`.

    Args:
        connection: not yet connected; its `socket_timeout` bounds the wait for each reply, its
            `socket_connect_timeout` the connecting.
        probe_s: pause between two attempts to get a lost connection back. The first attempt follows at once.
    """

    def __init__(self, connection: AbstractConnection, *, probe_s: float) -> None:
        self.n_timeouts = 0  # calls that gave up waiting
        self.n_rejected = 0  # calls that were not attempted, because Redis was known to be away
        self.n_lost = 0  # connections given up
        self._connection = connection
        self._probe_s = probe_s
        self._waiting: deque[_Call] = deque()
        self._wake = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._down: str | None = None
        self._closed = False

    @property
    def down(self) -> str | None:
        """Why calls are refused at present, or None."""
        return self._down

    async def call(self, commands: Sequence[Command], *, timeout_s: float) -> list[Any]:
        """One reply per command; a command that Redis refused has its `ResponseError` in that place.

        Raises:
            StoreUnavailable: no replies within `timeout_s`, the connection broke, or Redis is known to be away. The
                commands may or may not have been carried out.
        """
        if self._closed:
            raise StoreUnavailable("the connection to Redis is closed")
        if self._down is not None:
            self.n_rejected += 1
            raise StoreUnavailable(self._down)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="redis-lane")
        call = self._new_call(commands)
        timer = asyncio.get_running_loop().call_later(timeout_s, self._give_up, call, timeout_s)
        self._waiting.append(call)
        self._wake.set()
        try:
            return await call.replies
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Closes the connection; calls still waiting fail."""
        self._closed = True
        if self._worker is not None:
            # `asyncio.wait_for`, which redis-py sends with, may swallow a cancellation (Python 3.11): hence the flag as
            # well, which the worker sees after at most one timeout.
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        _fail(self._waiting, "the connection to Redis is closed")
        await self._disconnect()

    def _new_call(self, commands: Sequence[Command]) -> _Call:
        # Packed on the caller's side: a value that cannot be sent is that caller's error, not everybody's.
        packed = self._connection.pack_commands(commands)
        return _Call(packed, len(commands), asyncio.get_running_loop().create_future())

    def _give_up(self, call: _Call, timeout_s: float) -> None:
        if not call.replies.done():
            self.n_timeouts += 1
            call.replies.set_exception(StoreUnavailable(f"Redis did not answer within {timeout_s * 1000:.0f} ms"))

    async def _work(self) -> None:
        batch: list[_Call] = []
        try:
            while not self._closed:
                await self._wake.wait()
                self._wake.clear()
                while batch := self._take():
                    try:
                        await self._exchange(batch)
                    except Exception as error:  # redis-py lets OSError, ssl and protocol errors through, among others
                        await self._lost(error, batch)
        finally:
            _fail(batch, "the connection to Redis is closed")

    def _take(self) -> list[_Call]:
        batch: list[_Call] = []
        n_commands = 0
        while self._waiting and n_commands < MAX_COMMANDS_PER_EXCHANGE:
            call = self._waiting.popleft()
            if not call.replies.done():  # else its caller has gone
                batch.append(call)
                n_commands += call.n_replies
        return batch

    async def _exchange(self, batch: Sequence[_Call]) -> None:
        connection = self._connection
        if connection.is_connected and await connection.can_read():
            await self._disconnect()  # the server hung up while nobody was asking
        await connection.connect()  # type: ignore[no-untyped-call]
        await connection.send_packed_command([b"".join([part for call in batch for part in call.packed])])
        for call in batch:
            replies = [await self._reply() for _ in range(call.n_replies)]
            if not call.replies.done():
                call.replies.set_result(replies)

    async def _reply(self) -> Any:
        try:
            return await self._connection.read_response()
        except ResponseError as refusal:
            return refusal

    async def _lost(self, error: Exception, batch: Sequence[_Call]) -> None:
        """Returns once Redis answers again; until then every call is refused at once."""
        self.n_lost += 1
        self._down = f"Redis is away: {error or type(error).__name__}"
        log.warning("redis_lost", error=str(error), kind=type(error).__name__)
        _fail(batch, self._down)
        _fail(self._waiting, self._down)
        self._waiting.clear()
        while not self._closed:
            await self._disconnect()
            probe = self._new_call([("PING",)])
            try:
                await self._exchange([probe])
                answer = probe.replies.result()[0]
                if answer == b"PONG":
                    self._down = None
                    log.info("redis_back")
                    return
                self._down = f"Redis answered PING with {answer!r}"
            except Exception as again:
                self._down = f"Redis is away: {again or type(again).__name__}"
            await asyncio.sleep(self._probe_s)

    async def _disconnect(self) -> None:
        # Not `nowait=False`: a silent peer must not delay us. redis-py forgets the socket whatever happens.
        with contextlib.suppress(Exception):
            await self._connection.disconnect(nowait=True)


def _fail(calls: Sequence[_Call] | deque[_Call], reason: str) -> None:
    for call in calls:
        if not call.replies.done():
            call.replies.set_exception(StoreUnavailable(reason))
