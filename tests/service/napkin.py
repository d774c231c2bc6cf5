"""The real application in this process: a memory store, a tiny real artefact, and clocks that tests hold.

The catalogue fits on a napkin. The model `topk_only` scores <last item of the history, item>:

    item     a       b       c       d       e       f       g (not available)
    vector  (4, 0)  (3, 1)  (2, 2)  (1, 3)  (0, 4)  (0, 1)  (9, 9)
    count    5       1       9       5       0       2       100

    after a: a 16, b 12, c 8, d 4, e 0, f 0          after e: e 16, d 12, c 8, b 4, f 4, a 0
    popular: c, a, d, f, b, e
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import orjson

from service.errors import StoreUnavailable
from service.service import Service
from service.state.memory import MemoryStore
from service.state.store import Event, History, NewestLooks

ITEMS = ["a", "b", "c", "d", "e", "f", "g"]
TABLE = np.array([(0, 0), (4, 0), (3, 1), (2, 2), (1, 3), (0, 4), (0, 1), (9, 9)], np.float32)
COUNTS = [5, 1, 9, 5, 0, 2, 100]
NOW = 1_800_000_000.0


@dataclass
class ManualClock:
    """Time that moves when it is told to."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class FragileStore:
    """A memory store that can be away, and that notes who asked it what."""

    inner: MemoryStore
    away: bool = False
    reads: int = 0
    before_read: Callable[[], None] = lambda: None

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable("away")

    async def read(self, user_id: str | None, session_id: str | None, *, timeout_s: float) -> History:
        self._check()
        return await self.inner.read(user_id, session_id, timeout_s=timeout_s)

    async def recall(
        self, user_id: str | None, session_id: str | None, *, timeout_s: float
    ) -> tuple[NewestLooks, NewestLooks]:
        self.reads += 1
        self.before_read()
        self._check()
        return await self.inner.recall(user_id, session_id, timeout_s=timeout_s)

    async def append(self, events: Sequence[Event], *, timeout_s: float) -> list[bool]:
        self._check()
        return await self.inner.append(events, timeout_s=timeout_s)

    async def merge(self, user_id: str, *, from_user_id: str | None = None, from_session_id: str | None = None) -> int:
        self._check()
        return await self.inner.merge(user_id, from_user_id=from_user_id, from_session_id=from_session_id)

    async def export_user(self, user_id: str) -> list[Event]:
        self._check()
        return await self.inner.export_user(user_id)

    async def delete_user(self, user_id: str) -> int:
        self._check()
        return await self.inner.delete_user(user_id)

    async def deleted_at(self, user_id: str, *, timeout_s: float) -> float | None:
        self._check()
        return await self.inner.deleted_at(user_id, timeout_s=timeout_s)

    async def delete_session(self, session_id: str) -> int:
        self._check()
        return await self.inner.delete_session(session_id)

    async def ping(self) -> None:
        self._check()

    async def close(self) -> None:
        await self.inner.close()


@dataclass
class Running:
    """A started service and a client to it."""

    service: Service
    client: httpx.AsyncClient
    store: FragileStore
    clock: ManualClock
    wall: ManualClock
    log: io.BytesIO = field(repr=False)

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        return await self.client.post(path, content=content, headers=headers)

    async def recommend(self, **body: Any) -> dict[str, Any]:
        response = await self.post("/v1/recommend", body)
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def look(self, *item_ids: str, **owner: str) -> None:
        """Stores that somebody viewed these items, one second apart."""
        for item_id in item_ids:
            self.wall.advance(1)
            body = {"events": [{"type": "view", "item_id": item_id, **owner}]}
            assert (await self.post("/v1/events", body)).status_code == 202

    def log_lines(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.log.getvalue().splitlines()]

    def metrics(self) -> dict[str, float]:
        """Samples by name with labels, as the metrics page writes them."""
        lines = self.service.metrics.render().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def ids(reply: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in reply["items"]]


Start = Callable[..., Any]  # the fixture `start`: `async with start(setting=value, ...) as running`
