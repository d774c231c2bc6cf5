"""The outermost layer: what it leaves behind."""

from __future__ import annotations

import asyncio
import gc
import io
import weakref
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from service.api.gate import Gate
from service.api.record import Records
from service.logs import make_logger
from service.metrics import Metrics
from service.settings import Settings


class Marker:
    """Stands for all that a request holds."""


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def test_a_request_that_has_ended_is_free_without_the_garbage_collector() -> None:
    """Requests in cycles pile up until a collection, which then stops the event loop for tens of milliseconds."""
    records = Records(Metrics(), make_logger(Settings(log_format="json"), io.BytesIO()), lambda: 0.0)
    gate = Gate(answer, max_body_bytes=lambda path, content_type: 100, records=records)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    def scope_of(marker: Marker) -> dict[str, Any]:
        return {"type": "http", "method": "POST", "path": "/v1/events", "headers": [], "marker": marker}

    marker = Marker()
    gone = weakref.ref(marker)
    gc.disable()
    try:
        await asyncio.create_task(gate(scope_of(marker), receive, send))
        del marker
        assert gone() is None
    finally:
        gc.enable()
    assert sent[0]["status"] == 200
