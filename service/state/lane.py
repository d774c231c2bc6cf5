"""One connection to Redis that many requests share, and that no request can interrupt.

A cancelled command is how replies have reached the wrong user elsewhere: the reply stays in the socket and the next
caller reads it. Here callers never touch the socket. They leave their commands with the lane and wait for a future. At
the end of the event loop's tick everything that was left goes out as one write; replies come back in the order of the
commands and are handed out one by one. A caller may give up whenever it likes: its replies are read and dropped. If
anything goes wrong while a reply is due, the connection is closed, never reused.

    call() -> waiting -- end of the tick: one write --> due -- replies, in order --> futures
                              | any failure: close, fail everybody
                              +> down: calls fail at once while the lane probes (connect + PING) until it answers

So a dead or silent Redis costs requests nothing but the first `socket_timeout_s`, and its return is noticed within
`probe_s` plus one exchange, without a request having to find out.

redis-py opens the connection (addresses, TLS, passwords); afterwards the socket is read here, by hiredis: redis-py's
own reader costs several times what the rest of a request's state does.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import hiredis
import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import InvalidResponse, NoScriptError, ResponseError

from service.errors import StoreUnavailable
from service.timeouts import Timeouts

Command = Sequence[str | bytes | int | float]

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Call:
    packed: bytes
    n_replies: int
    answer: asyncio.Future[list[Any]]
    replies: list[Any] = field(default_factory=list)


class Lane:
    """Sends commands over one connection of redis-py, in order of `call`.

    Args:
        connection: not yet connected; its `socket_connect_timeout` bounds the connecting.
        socket_timeout_s: a connection that is silent for longer while a reply is due is given up.
        probe_s: pause between two attempts to get a lost connection back. The first attempt follows at once.
    """

    def __init__(self, connection: AbstractConnection, *, socket_timeout_s: float, probe_s: float) -> None:
        self.n_timeouts = 0  # calls that gave up waiting
        self.n_rejected = 0  # calls that were not attempted, because Redis was known to be away
        self.n_lost = 0  # connections given up
        self._connection = connection
        self._socket_timeout_s, self._probe_s = socket_timeout_s, probe_s
        self._waiting: list[_Call] = []
        self._flush_is_due = False
        self._link: _Link | None = None
        self._timeouts: Timeouts | None = None
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
        loop = asyncio.get_running_loop()
        call = self._new_call(commands)
        if self._timeouts is None:
            self._timeouts = Timeouts(loop)
        self._timeouts.add(timeout_s, call.answer, partial(self._give_up, call, timeout_s))
        self._waiting.append(call)
        if self._link is None:
            self._worker = self._worker or loop.create_task(self._work(), name="redis-lane")
            self._wake.set()
        elif not self._flush_is_due:
            self._flush_is_due = True
            loop.call_soon(self._flush)
        return await call.answer

    async def close(self) -> None:
        """Closes the connection; calls still waiting fail."""
        self._closed = True
        if self._worker is not None:
            # redis-py may swallow a cancellation while it connects (Python 3.11): hence the flag as well.
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        if self._link is not None:
            _fail(self._link.due, "the connection to Redis is closed")
            self._link = None
        _fail(self._waiting, "the connection to Redis is closed")
        await self._disconnect()

    def _new_call(self, commands: Sequence[Command]) -> _Call:
        # Packed on the caller's side: a value that cannot be sent is that caller's error, not everybody's.
        packed = b"".join(self._connection.pack_commands(commands))
        return _Call(packed, len(commands), asyncio.get_running_loop().create_future())

    def _give_up(self, call: _Call, timeout_s: float) -> None:
        self.n_timeouts += 1
        call.answer.set_exception(StoreUnavailable(f"Redis did not answer within {timeout_s * 1000:.0f} ms"))

    def _flush(self) -> None:
        """One write for everything that was left since the last one."""
        self._flush_is_due = False
        if self._link is not None and self._link.hung_up():
            self._link = None
            self._wake.set()
        if self._link is not None and self._waiting:
            # Without those whose callers have gone.
            self._link.send([call for call in self._waiting if not call.answer.done()])
            self._waiting.clear()

    async def _work(self) -> None:
        """Keeps a link while anybody wants one."""
        while not self._closed:
            await self._wake.wait()
            self._wake.clear()
            if self._down is None and self._link is None and self._waiting:
                try:
                    self._link = await self._connect()
                except Exception as error:  # redis-py lets OSError, ssl and protocol errors through, among others
                    self._give_up_link(error)
                else:
                    self._flush()
            if self._down is not None:
                await self._probe()

    async def _connect(self) -> _Link:
        await self._disconnect()
        await self._connection.connect()  # type: ignore[no-untyped-call]
        writer = self._connection._writer  # the one thing redis-py does not give out: the socket it opened
        assert writer is not None
        link = _Link(writer.transport, self._socket_timeout_s, self._on_lost)
        writer.transport.set_protocol(link)
        return link

    def _on_lost(self, link: _Link, error: Exception | None) -> None:
        """The link has ended. Only somebody who was waiting for a reply has lost anything."""
        if link is not self._link:
            _fail(link.due, f"Redis is away: {error or 'it closed the connection'}")
            return
        if link.due:
            self._give_up_link(error or ConnectionError("it closed the connection"))
        self._link = None
        self._wake.set()

    def _give_up_link(self, error: Exception) -> None:
        self.n_lost += 1
        self._down = f"Redis is away: {error or type(error).__name__}"
        log.warning("redis_lost", error=str(error), kind=type(error).__name__)
        if self._link is not None:
            _fail(self._link.due, self._down)
        _fail(self._waiting, self._down)
        self._waiting.clear()

    async def _probe(self) -> None:
        """Returns once Redis answers again; until then every call is refused at once."""
        while not self._closed:
            try:
                link = await self._connect()
                probe = self._new_call([("PING",)])
                link.send([probe])
                [answer] = await asyncio.wait_for(probe.answer, self._socket_timeout_s)
                if answer == b"PONG":
                    self._link, self._down = link, None
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


class _Link(asyncio.Protocol):
    """One open socket: calls out, replies in."""

    def __init__(
        self,
        transport: asyncio.WriteTransport,
        socket_timeout_s: float,
        on_lost: Callable[[_Link, Exception | None], None],
    ) -> None:
        self.due: deque[_Call] = deque()
        self._transport, self._on_lost = transport, on_lost
        self._poll = select.poll()
        self._poll.register(transport.get_extra_info("socket").fileno(), _HUNG_UP)
        self._timeout_s = socket_timeout_s
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=_as_error, notEnoughData=_NOT_YET)
        self._heard_at = 0.0
        self._watch: asyncio.TimerHandle | None = None

    def hung_up(self) -> bool:
        """Whether the server closed an idle link, even where the event loop has not come round to say so."""
        return not self.due and bool(self._poll.poll(0))

    def send(self, calls: Sequence[_Call]) -> None:
        if not calls:
            return
        if not self.due:
            self._heard_at = self._loop.time()
        self.due.extend(calls)
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout_s, self._look)
        self._transport.write(b"".join([call.packed for call in calls]))

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        gets, due = self._reader.gets, self.due
        try:
            self._reader.feed(data)
            while (reply := gets()) is not _NOT_YET:
                if not due:
                    raise InvalidResponse("a reply that nobody asked for")
                call = due[0]
                call.replies.append(reply)
                if len(call.replies) == call.n_replies:
                    due.popleft()
                    if not call.answer.done():
                        call.answer.set_result(call.replies)
        except Exception as error:
            self._end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)

    def _look(self) -> None:
        """Gives a link up that has been silent for too long; otherwise looks again while anything is due."""
        self._watch = None
        if not self.due:
            return
        silent_s = self._loop.time() - self._heard_at
        if silent_s >= self._timeout_s:
            self._end(TimeoutError(f"no reply for {silent_s * 1000:.0f} ms"))
        else:
            self._watch = self._loop.call_later(self._timeout_s - silent_s, self._look)

    def _end(self, error: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._transport.abort()
        self._on_lost(self, error)
        self.due.clear()


_NOT_YET = object()
_HUNG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


def _as_error(text: str) -> ResponseError:
    return (NoScriptError if text.startswith("NOSCRIPT") else ResponseError)(text.removeprefix("ERR "))


def _fail(calls: Iterable[_Call], reason: str) -> None:
    for call in calls:
        if not call.answer.done():
            call.answer.set_exception(StoreUnavailable(reason))
