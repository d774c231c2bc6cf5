"""A small HTTP/1.1 client over keep-alive connections: exact bytes, exact times, little of its own.

General clients (httpx, aiohttp) spend more time per request than the service does, and the generator shares the
machine with it; what they would measure is themselves.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import orjson

from loadtest.errors import InputError, LoadtestError, ServiceError


@dataclass(frozen=True, slots=True)
class Response:
    """One reply. `sent_s` and `done_s` are `perf_counter` times of the first byte out and the last byte in."""

    status: int
    body: bytes
    sent_s: float
    done_s: float

    def json(self) -> Any:
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise ServiceError(f"status {self.status} with a body that is not JSON: {self.body[:80]!r}") from error


class NoReply(LoadtestError):
    """A request without a reply; `reason` is one of `timeout`, `refused`, `closed`, `protocol`, `not_sent`."""

    def __init__(self, reason: str, sent_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent_s = sent_s


class Client:
    """At most `max_connections` requests at once to one host; the others wait in order of arrival.

    Use as `async with Client(url) as client`. The bound keeps an overloaded run from opening thousands of sockets;
    time spent waiting for a connection counts, because callers measure from when they meant to send.
    """

    def __init__(self, url: str, *, max_connections: int = 256) -> None:
        parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"host: {url!r} is not of the form http://name:port")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._netloc = parts.netloc
        self._host, self._tls = parts.hostname, parts.scheme == "https"
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._max_connections = max_connections
        self._n_open = 0
        self._idle: list[_Connection] = []
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._idle:
            self._idle.pop().close()

    async def get(self, path: str, *, timeout_s: float = 10.0) -> Response:
        return await self.request("GET", path, timeout_s=timeout_s)

    async def post(self, path: str, document: Any, *, headers: str = "", timeout_s: float = 10.0) -> Response:
        return await self.request("POST", path, orjson.dumps(document), headers=headers, timeout_s=timeout_s)

    async def request(
        self, method: str, path: str, body: bytes = b"", *, headers: str = "", timeout_s: float = 10.0
    ) -> Response:
        """The reply to one request.

        Args:
            headers: further header lines, each ending in CRLF.
            timeout_s: for everything, waiting for a free connection included.

        Raises:
            NoReply: with the reason.
        """
        head = (
            f"{method} {self._prefix}{path} HTTP/1.1\r\nHost: {self._netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        )
        deadline_s = perf_counter() + timeout_s
        await self._take_slot(deadline_s)
        connection: _Connection | None = None
        try:
            connection, reused = await self._connection(deadline_s)
            try:
                return await connection.exchange(head.encode() + body, deadline_s)
            except NoReply as failure:
                # A server may close an idle connection at the moment of its reuse. Every request here is safe to
                # repeat (events carry an event_id), so that race is not an error of the service.
                if not (reused and failure.reason == "closed" and not connection.answered):
                    raise
                connection = await self._connect(deadline_s)
                return await connection.exchange(head.encode() + body, deadline_s)
        finally:
            if connection is not None and connection.usable:
                self._idle.append(connection)
            self._give_slot()

    async def _take_slot(self, deadline_s: float) -> None:
        if self._n_open < self._max_connections:
            self._n_open += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        timer = asyncio.get_running_loop().call_later(max(0.0, deadline_s - perf_counter()), _expire, turn)
        try:
            await turn
        except BaseException:
            # A slot given in the same moment as a cancellation would be lost otherwise.
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._give_slot()
            raise
        finally:
            timer.cancel()

    def _give_slot(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._n_open -= 1

    async def _connection(self, deadline_s: float) -> tuple[_Connection, bool]:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection, True
        return await self._connect(deadline_s), False

    async def _connect(self, deadline_s: float) -> _Connection:
        loop = asyncio.get_running_loop()
        context = ssl.create_default_context() if self._tls else None
        try:
            async with asyncio.timeout(max(0.0, deadline_s - perf_counter())):
                _, connection = await loop.create_connection(_Connection, self._host, self._port, ssl=context)
        except TimeoutError:
            raise NoReply("timeout") from None
        except OSError:
            raise NoReply("refused") from None
        return connection


class _Connection(asyncio.Protocol):
    """One socket and the one request on it. TCP_NODELAY is on by default in asyncio and uvloop."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._reply: asyncio.Future[Response] | None = None
        self._sent_s = 0.0
        self._reset()

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing() and self._reply is None

    async def exchange(self, request: bytes, deadline_s: float) -> Response:
        transport = self._transport
        if transport is None or transport.is_closing():
            raise NoReply("closed")
        loop = asyncio.get_running_loop()
        self._reset()
        self._reply = loop.create_future()
        timer = loop.call_later(max(0.0, deadline_s - perf_counter()), self._fail, "timeout")
        self._sent_s = perf_counter()
        transport.write(request)
        try:
            return await self._reply
        except asyncio.CancelledError:
            transport.abort()
            raise
        finally:
            timer.cancel()
            self._reply = None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # a stream; uvloop's class has no common base to test for

    def data_received(self, data: bytes) -> None:
        self.answered = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail("protocol")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail("closed")

    # httptools
    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # 100 Continue and the like come before the reply
            return
        if not self._parser.should_keep_alive():
            self.close()
        if self._reply is not None and not self._reply.done():
            self._reply.set_result(Response(status, b"".join(self._parts), self._sent_s, perf_counter()))

    def _reset(self) -> None:
        self.answered = False
        self._parts: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    def _fail(self, reason: str) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(NoReply(reason, self._sent_s))
        if self._transport is not None:
            self._transport.abort()


def _expire(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(NoReply("not_sent"))
