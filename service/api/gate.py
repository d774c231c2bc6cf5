"""What every request passes: a name, a clock, a limit on its size, and at the end one log line and the metrics.

Pure ASGI; it is the outermost layer, so whatever goes wrong inside still leaves as a problem. One Gate stands before
the routes of FastAPI, another before each route that is reached without FastAPI's layers.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import problem_response
from service.deadline import Clock
from service.errors import BodyTooLarge, ReceiveTimeout, RequestError
from service.logs import Logger, describe, new_id
from service.metrics import Metrics

_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:@-]{1,128}")
# What the server and the gate tell each other in the request's state: when the first byte came, and whom to tell that
# the caller has gone, or that the rest of the request does not come; how to write a whole answer at once; and that the
# event loop has no time for more than what it knows itself.
ARRIVED_AT, ABANDON, REPLY, CROWDED = "arrived_at", "abandon", "reply", "crowded"
Reason = Literal["client_gone", "receive_timeout"]
GONE: Reason = "client_gone"
LATE: Reason = "receive_timeout"

# Questions: stopping half-way leaves nothing behind. What changes state is finished, whether anybody listens or not.
BATCHES = {"/v1/recommend/batch", "/v1/rank/batch"}
QUESTIONS = {"/v1/recommend", "/v1/rank", "/v1/similar"} | BATCHES
_QUIET = {"/livez", "/readyz", "/metrics"}


@dataclass(slots=True)
class Record:
    """What is known of a request while it is answered; `fields` is what its log line says beyond the usual."""

    request_id: str
    started_at: float
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    crowded: bool = False  # the event loop has no time for more than what it knows itself
    code: str | None = None
    abandoned: Reason | None = None
    status: int = 0  # of an answer that did not pass `send`
    fields: dict[str, Any] = field(default_factory=dict)


class Gate:
    """The application behind limits and a log.

    Args:
        max_body_bytes: the limit of a request by path and content type; None = no limit on the whole body.
        route: what log and metrics call every request here; by default the route that FastAPI found.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: Callable[[str, str], int | None],
        metrics: Metrics,
        log: Logger,
        clock: Clock,
        route: str | None = None,
    ) -> None:
        self._app, self._max_body_bytes, self._route = app, max_body_bytes, route
        self._metrics, self._log, self._clock = metrics, log, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else new_id()
        state = scope.setdefault("state", {})
        record = state["record"] = Record(
            request_id, state.get(ARRIVED_AT) or self._clock(), headers, state.get(CROWDED, False)
        )
        status = 0
        task = asyncio.current_task()

        def abandon(reason: Reason) -> None:
            if task is not None and (reason == LATE or scope["path"] in QUESTIONS):
                record.abandoned = reason
                task.cancel()

        state[ABANDON] = abandon

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        limit = self._max_body_bytes(scope["path"], headers.get(b"content-type", b"").decode("latin-1"))
        self._metrics.inflight.inc()
        try:
            if limit is None:
                await self._app(scope, receive, send_named)
            else:
                _check_declared(headers, limit)
                await self._app(scope, _counted(receive, limit), send_named)
        except (ClientDisconnect, asyncio.CancelledError) as stop:
            if isinstance(stop, asyncio.CancelledError) and (record.abandoned is None or task is None):
                raise  # the server itself stops
            if task is not None:
                task.uncancel()
            if record.abandoned == LATE and not status:
                record.code = LATE
                late = ReceiveTimeout("The request did not arrive in time.")
                await problem_response(late, request_id, {"Connection": "close"})(scope, receive, send_named)
            else:
                record.code = GONE
                status = 499  # for the log and the metrics; nobody hears it
        except Exception as error:
            if status:  # too late for another answer; the server cuts the connection
                raise
            known = error if isinstance(error, RequestError) else RequestError("Something went wrong on our side.")
            if known is not error:
                self._log.error("internal_error", request_id=request_id, **describe(error))
            record.code = known.code
            await problem_response(known, request_id)(scope, receive, send_named)
        finally:
            self._metrics.inflight.dec()
            self._close(scope, record, status or record.status)

    def _close(self, scope: Scope, record: Record, status: int) -> None:
        took_s = self._clock() - record.started_at
        # The template, never the path itself: paths may hold ids, and labels must stay few.
        route = self._route or getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if route != "unmatched" else "any"
        self._metrics.http_of(route, method, str(status)).observe(took_s)
        say, level = (self._log.debug, logging.DEBUG) if route in _QUIET else (self._log.info, logging.INFO)
        if not self._log.is_enabled_for(level):
            return
        say(
            "request",
            request_id=record.request_id,
            method=scope["method"][:16],
            route=route,
            status=status,
            ms=round(took_s * 1000, 3),
            **({"code": record.code} if record.code else {}),
            **record.fields,
        )


def _check_declared(headers: dict[bytes, bytes], limit: int) -> None:
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 18 or int(length) > limit:
        raise _too_large(limit)


def _counted(receive: Receive, limit: int) -> Receive:
    """`receive` that counts: a chunked body declares no length, and a declared one may lie."""
    n_bytes = 0

    async def counted() -> Message:
        nonlocal n_bytes
        message = await receive()
        n_bytes += len(message.get("body", b""))
        if n_bytes > limit:
            raise _too_large(limit)
        return message

    return counted


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {limit} bytes.")
