"""The HTTP application around a `Service`: routes, problems, limits, documentation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from service.api.batch import add_batch, is_ndjson
from service.api.connection import Connection
from service.api.crowd import Crowd
from service.api.documented import add_openapi
from service.api.exchange import StraightRoute
from service.api.gate import Gate
from service.api.operations import add_operations
from service.api.people import add_people
from service.api.problems import add_handlers
from service.api.rank import BATCH_PATH as RANK_BATCH
from service.api.rank import add_rank
from service.api.recommend import add_recommend, straight_recommend
from service.api.record import Records
from service.api.refusal import Refusal
from service.errors import crowded_loop
from service.service import Service

_BATCH = "/v1/recommend/batch"
_BULK = {_BATCH, RANK_BATCH, "/v1/events"}


class Application(FastAPI):
    """FastAPI, and `straight` routes that connections answer without it.

    `connection` is the protocol class (a factory of it) that uvicorn should serve with.
    """

    def __init__(self, service: Service, straight: Sequence[StraightRoute], **options: Any) -> None:
        super().__init__(**options)
        self._straight = {route.path.encode(): route for route in straight}
        self._service = service
        self._crowd: Crowd | None = None
        self._refusal = Refusal(crowded_loop())

    def connection(self, *args: Any, **kwargs: Any) -> Connection:
        """A new connection; uvicorn calls it in its event loop."""
        self._crowd = self._crowd or Crowd(asyncio.get_running_loop())
        return Connection(
            *args,
            straight=self._straight,
            metrics=self._service.metrics,
            receive_timeout_s=self._service.settings.receive_timeout_s,
            crowd=self._crowd,
            refusal=self._refusal,
            **kwargs,
        )


def create_app(service: Service) -> Application:
    """An ASGI application that starts and stops `service` with its lifespan."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    def max_body_bytes(path: str, content_type: str) -> int | None:
        if path == _BATCH and is_ndjson(content_type):
            return None  # a stream is bounded by the line
        return service.settings.max_bulk_body_bytes if path in _BULK else service.settings.max_body_bytes

    records = Records(service.metrics, service.log, service.clock)
    app = Application(
        service,
        [straight_recommend(service, records)],
        title="afterglow",
        description="Recommendations from models that were taught by a large language model and no longer need it.",
        version=version("afterglow"),
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
    )
    app.add_middleware(Gate, max_body_bytes=max_body_bytes, records=records)
    add_handlers(app)
    add_openapi(app)
    add_recommend(app, service)
    add_batch(app, service)
    add_rank(app, service)
    add_people(app, service)
    add_operations(app, service)
    return app
