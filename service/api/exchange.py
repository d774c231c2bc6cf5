"""A question that is answered from the connection itself: no ASGI, no task, one write.

For such a request an `Exchange` is what uvicorn's `RequestResponseCycle` is for all others. Its work is a coroutine: it
begins in the callback that read the last of the body, and goes on in the callback of whatever it waits for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Protocol

import orjson

from service.api.problems import MEDIA_TYPE, problem
from service.api.record import GONE, GONE_STATUS, LATE, Record, Records, check_declared, too_large
from service.errors import Draining, ReceiveTimeout, RequestError
from service.logs import describe

Header = tuple[bytes, bytes]
# Makes of a record and a body what follows the status line, up to the headers that all replies have; and the body.
Work = Callable[[Record, bytes], Coroutine[Any, Any, tuple[bytes, bytes]]]


class StraightRoute:
    """A route of questions that connections answer themselves.

    Args:
        path: the whole path; a request that has a query goes the long way.
        work: its errors are answered as problems.
    """

    def __init__(self, path: str, work: Work, records: Records, *, max_body_bytes: int) -> None:
        self.path, self.work, self.records, self.max_body_bytes = path, work, records, max_body_bytes
        self._common: list[Header] = []
        self._common_lines = b""

    def common(self, headers: list[Header]) -> bytes:
        """Lines of the headers that uvicorn gives all replies; it makes a new list of them every second."""
        if headers is not self._common:
            self._common = headers
            self._common_lines = b"".join([b"%s: %s\r\n" % header for header in headers])
        return self._common_lines


class Link(Protocol):
    """The connection, as an exchange sees it."""

    def finish(self, exchange: Exchange, reply: bytes) -> None:
        """Writes the whole reply, unless it is empty, and takes the next request."""

    def common_headers(self) -> list[Header]:
        """What every reply has."""


class Exchange:
    """One request and its reply. `response_complete` and `keep_alive` are read, and the latter set, by uvicorn."""

    __slots__ = ("_awaited", "_body", "_link", "_route", "_work", "keep_alive", "record", "response_complete")

    def __init__(self, route: StraightRoute, link: Link, record: Record, *, keep_alive: bool) -> None:
        self._route, self._link, self.record = route, link, record
        self.keep_alive = keep_alive
        self.response_complete = False
        self._body = b""
        self._work: Coroutine[Any, Any, tuple[bytes, bytes]] | None = None
        self._awaited: asyncio.Future[Any] | None = None

    def check_declared(self) -> None:
        """Ends the exchange at once where the declared body is too large."""
        try:
            check_declared(self.record.headers, self._route.max_body_bytes)
        except RequestError as error:
            self._fail(error)

    def take(self, body: bytes) -> None:
        """The next part of the body."""
        if self.response_complete:
            return
        self._body = self._body + body if self._body else body
        if len(self._body) > self._route.max_body_bytes:
            self._fail(too_large(self._route.max_body_bytes))

    def begin(self) -> None:
        """The body is whole."""
        if not self.response_complete:
            self._work = self._route.work(self.record, self._body)
            self._go_on(None)

    def late(self) -> None:
        """The rest of the request does not come."""
        self.keep_alive = False
        self._fail(ReceiveTimeout("The request did not arrive in time."))

    def gone(self) -> None:
        """The caller has gone: nobody works for nobody."""
        if self.response_complete:
            return
        self.record.abandoned = GONE
        if self._awaited is None:
            self._end(GONE_STATUS, b"")
        else:
            self._awaited.cancel()  # and `_go_on` hears of it

    def cancel(self, msg: object = None) -> None:
        """As of a task: uvicorn calls it when the time to finish what is in flight is over."""
        if self._awaited is not None:
            self._awaited.cancel()
        else:  # not now: uvicorn is walking through what is in flight
            asyncio.get_running_loop().call_soon(self._stop)

    def _go_on(self, _awaited: object) -> None:
        assert self._work is not None
        try:
            if self.record.abandoned is None:
                awaited = self._work.send(None)
            else:
                awaited = self._work.throw(asyncio.CancelledError())
        except StopIteration as end:
            self._succeed(*end.value)
        except asyncio.CancelledError:
            if self.record.abandoned is not None:
                self._end(GONE_STATUS, b"")
            else:
                self._stop()
        except RequestError as error:
            self._fail(error)
        except Exception as error:
            self._route.records.log.error("internal_error", request_id=self.record.request_id, **describe(error))
            self._fail(RequestError("Something went wrong on our side."))
        else:
            # What a task does with the future that its coroutine waits for.
            awaited._asyncio_future_blocking = False
            awaited.add_done_callback(self._go_on)
            self._awaited = awaited

    def _stop(self) -> None:
        self.keep_alive = False
        if not self.response_complete:
            self._fail(Draining("The service stops.", retry_after_s=1))

    def _succeed(self, head: bytes, body: bytes) -> None:
        self._end(200, b"HTTP/1.1 200 OK\r\n%s%s%s" % (head, self._further(), body))

    def _fail(self, error: RequestError) -> None:
        self.record.code = LATE if isinstance(error, ReceiveTimeout) else error.code
        self._end(error.status, problem_reply(error, self.record.request_id, self._further()))

    def _further(self) -> bytes:
        """The lines that end the head of every reply, and the empty one."""
        close = b"" if self.keep_alive else b"connection: close\r\n"
        return b"x-request-id: %s\r\n%s%s\r\n" % (
            self.record.request_id.encode(),
            self._route.common(self._link.common_headers()),
            close,
        )

    def _end(self, status: int, reply: bytes) -> None:
        record = self.record
        if record.abandoned is not None:
            record.code, status, reply = GONE, GONE_STATUS, b""
        self.response_complete = True
        self._link.finish(self, reply)
        self._route.records.close(record, self._route.path, "POST", status)


def problem_reply(error: RequestError, request_id: str, further: bytes) -> bytes:
    """A whole reply; `further` are lines of more headers, and the empty one."""
    body = orjson.dumps(problem(error, request_id))
    retry = b"" if error.retry_after_s is None else b"retry-after: %d\r\n" % error.retry_after_s
    return b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n%s%s%s" % (
        error.status,
        HTTPStatus(error.status).phrase.encode(),
        MEDIA_TYPE.encode(),
        len(body),
        retry,
        further,
        body,
    )
