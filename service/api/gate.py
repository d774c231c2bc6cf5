"""What every request passes on its way to a route: a name, a clock, a limit on its size, and at the end its record.

Pure ASGI; it is the outermost layer, so whatever goes wrong inside still leaves as a problem.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import problem_response
from service.api.record import GONE, GONE_STATUS, LATE, Reason, Records, check_declared, too_large
from service.errors import ReceiveTimeout, RequestError
from service.logs import describe

# What the server and the gate tell each other in the request's state: when the first byte came, and whom to tell that
# the caller has gone, or that the rest of the request does not come; and that the event loop has no time for more than
# what it knows itself.
ARRIVED_AT, ABANDON, CROWDED = "arrived_at", "abandon", "crowded"

# Questions: stopping half-way leaves nothing behind. What changes state is finished, whether anybody listens or not.
BATCHES = {"/v1/recommend/batch", "/v1/rank/batch"}
QUESTIONS = {"/v1/recommend", "/v1/rank", "/v1/similar"} | BATCHES


class Gate:
    """The application behind limits and a log.

    Args:
        max_body_bytes: the limit of a request by path and content type; None = no limit on the whole body.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: Callable[[str, str], int | None], records: Records) -> None:
        self._app, self._max_body_bytes, self._records = app, max_body_bytes, records

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        state = scope.setdefault("state", {})
        record = state["record"] = self._records.open(headers, state.get(ARRIVED_AT), crowded=state.get(CROWDED, False))
        request_id = record.request_id
        status = 0
        task = asyncio.current_task()
        is_question = scope["path"] in QUESTIONS  # not the scope itself: it holds `abandon`, a cycle for each request

        def abandon(reason: Reason) -> None:
            if task is not None and (reason == LATE or is_question):
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
        try:
            if limit is None:
                await self._app(scope, receive, send_named)
            else:
                check_declared(headers, limit)
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
                status = GONE_STATUS
        except Exception as error:
            if status:  # too late for another answer; the server cuts the connection
                raise
            known = error if isinstance(error, RequestError) else RequestError("Something went wrong on our side.")
            if known is not error:
                self._records.log.error("internal_error", request_id=request_id, **describe(error))
            record.code = known.code
            await problem_response(known, request_id)(scope, receive, send_named)
        finally:
            self._records.close(record, _route(scope), scope["method"], status)


def _route(scope: Scope) -> str:
    """The template of the route; of a question also where it was stopped before the routes."""
    found = getattr(scope.get("route"), "path", None)
    if found is None and scope["method"] == "POST" and scope["path"] in QUESTIONS:
        found = scope["path"]
    return found or "unmatched"


def _counted(receive: Receive, limit: int) -> Receive:
    """`receive` that counts: a chunked body declares no length, and a declared one may lie."""
    n_bytes = 0

    async def counted() -> Message:
        nonlocal n_bytes
        message = await receive()
        n_bytes += len(message.get("body", b""))
        if n_bytes > limit:
            raise too_large(limit)
        return message

    return counted
