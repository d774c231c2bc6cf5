"""Stand-ins for the service: one that speaks its HTTP shapes, and raw connections for what no server should do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

MODELS = {
    "models": [{"name": "fake", "version": "1", "history_events": ["click", "buy"]}],
    "scenarios": [{"name": "home", "default": True, "model": {"name": "fake", "version": "1"}}],
}


@dataclass
class FakeService:
    """Recommends the catalogue in a fixed order, item 1 first, without those in the history; remembers events.

    `state_down` makes it behave as with a dead store: events are queued, stored history is not there.
    """

    item_ids: list[str] = field(default_factory=lambda: [f"i{n:02d}" for n in range(40)])
    url: str = ""
    state_down: bool = False
    fail_with: int | None = None
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: dict[str, list[Any]] = field(default_factory=dict)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        path = scope["path"]
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        document = orjson.loads(body) if body else None
        self.bodies.setdefault(path, []).append(document)
        status, reply = (self.fail_with, {"code": "internal"}) if self.fail_with else self.answer(path, document)
        content = reply if isinstance(reply, bytes) else orjson.dumps(reply)
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(content))]}
        )
        await send({"type": "http.response.body", "body": content})

    def answer(self, path: str, document: Any) -> tuple[int, Any]:
        match path.split("/")[1:]:
            case ["v1", "models"]:
                return 200, MODELS
            case ["v1", "recommend"]:
                return 200, self.recommend(document)
            case ["v1", "recommend", "batch"]:
                return 200, {
                    "results": [{"status": 200, **self.recommend(request)} for request in document["requests"]]
                }
            case ["v1", "events"]:
                return 202, self.store(document["events"])
            case ["v1", "users", user_id, "export"]:
                return 200, {"user_id": user_id, "events": self.events.get(user_id, [])}
            case ["metrics"]:
                return 200, b"process_cpu_seconds_total 1.5\nprocess_resident_memory_bytes 2e+08\n"
        return 404, {"code": "not_found"}

    def recommend(self, request: dict[str, Any]) -> dict[str, Any]:
        history = request.get("history")
        degraded = history is None and self.state_down
        if history is None and not degraded:
            history = self.events.get(request.get("user_id", request.get("session_id", "")), [])
        seen = {event["item_id"] for event in history or []}
        left = [item_id for item_id in self.item_ids if item_id not in seen][: request.get("count", 10)]
        return {
            "items": [
                {"item_id": item_id, "score": 1.0 - self.item_ids.index(item_id) / 100, "rank": rank}
                for rank, item_id in enumerate(left, 1)
            ],
            "served": {"tier": "model" if history else "popular", "degraded": degraded},
            "timing_ms": {"state": 0.5, "total": 2.0},
        }

    def store(self, events: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.state_down:
            for event in events:
                for owner in {event.get("user_id"), event["session_id"]} - {None}:
                    self.events.setdefault(owner, []).append(event)
        durability = "queued" if self.state_down else "stored"
        return {"accepted": len(events), "duplicates": 0, "rejected": [], "durability": durability}


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """The URL of a server that hands every connection to `handler` and closes it afterwards."""
    open_ones: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_ones.add(task)
        try:
            await handler(reader, writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # the other side is gone, or the test is over
        finally:
            open_ones.discard(task)
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        left = list(open_ones)
        for task in left:
            task.cancel()
        await asyncio.gather(*left)
        await asyncio.sleep(0)  # the transports close in the next round of the loop
