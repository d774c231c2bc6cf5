"""`/v1/recommend/batch`: many questions in one call, as one JSON document or as a stream of lines.

The document has one deadline for all; in a stream each line has its own, because a stream has no end in sight. Either
way a bad sub-request fails alone, results keep the order of the requests, and only so many are in flight at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.asks import recommend_ask
from service.api.body import lines, parse_json, read_body
from service.api.documented import documented, ref
from service.api.problems import problem
from service.api.recommend import PROBLEMS, start_deadline
from service.api.replies import as_document
from service.api.schemas import MAX_SUB_REQUESTS, BatchReply, BatchRequest, RecommendRequest
from service.deadline import Deadline
from service.errors import RequestError
from service.logs import describe
from service.service import Service

NDJSON = "application/x-ndjson"


def is_ndjson(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == NDJSON


def add_batch(app: FastAPI, service: Service) -> None:
    async def batch(request: Request) -> Response:
        """Up to 256 requests in one document; as `application/x-ndjson` any number, one a line."""
        call = _Call(service, request)
        deadline = start_deadline(request.state.record, service, service.settings.batch_deadline_ms)
        if is_ndjson(request.headers.get("content-type", "")):
            return _LineStream(call.stream())
        body = await read_body(request, BatchRequest)
        results = await call.answer_all(body.requests, deadline)
        return Response(orjson.dumps({"results": results}), media_type="application/json")

    schema = BatchRequest.model_json_schema() | {
        "properties": {
            "requests": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_SUB_REQUESTS,
                "items": ref(RecommendRequest),
            }
        }
    }
    app.add_api_route(
        "/v1/recommend/batch",
        batch,
        methods=["POST"],
        **documented(BatchReply, body_schema=schema, problems=PROBLEMS, ndjson=True),
    )


class _Call:
    """One batch call while it is answered.

    Raises:
        NotReady: the models are still being loaded.
    """

    def __init__(self, service: Service, request: Request) -> None:
        self._service, self._request = service, request
        self._recommender = service.recommender
        self._tally: Counter[str] = Counter()
        request.state.record.fields["tiers"] = self._tally
        # Twice the engine's batch: one in the run, one waiting for it. More would only stand in the queue.
        self._max_in_flight = 2 * service.settings.max_batch

    async def answer_all(self, documents: list[Any], deadline: Deadline) -> list[dict[str, Any]]:
        slots = asyncio.Semaphore(self._max_in_flight)

        async def in_turn(document: Any) -> dict[str, Any]:
            async with slots:
                return await self._answer(document, deadline)

        return await asyncio.gather(*map(in_turn, documents))

    async def stream(self) -> AsyncIterator[bytes]:
        """Answers in order, while further lines are read."""
        pending: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(maxsize=self._max_in_flight)

        async def read() -> None:
            try:
                async for line in lines(self._request.stream(), self._service.settings.max_body_bytes):
                    await pending.put(asyncio.create_task(self._answer_line(line)))
            except ClientDisconnect:
                self._request.state.record.code = "client_gone"
            finally:
                await pending.put(None)

        reading = asyncio.create_task(read())
        try:
            while (task := await pending.get()) is not None:
                yield await task
        finally:
            # Answers in the making are few and end by themselves.
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading

    async def _answer(self, document: Any, deadline: Deadline) -> dict[str, Any]:
        """A reply with its status, or a problem."""
        try:
            answer = await self._recommender.recommend(recommend_ask(document), deadline, bulk=True)
        except RequestError as error:
            return self._failed(error)
        except Exception as error:
            request_id = self._request.state.record.request_id
            self._service.log.error("internal_error", request_id=request_id, **describe(error))
            return self._failed(RequestError("Something went wrong on our side."))
        self._tally[answer.picked.tier] += 1
        self._service.metrics.batch_rows.labels("200").inc()
        return {"status": 200, **as_document(answer)}

    async def _answer_line(self, line: bytes | RequestError) -> bytes:
        try:
            if isinstance(line, RequestError):
                raise line
            document = parse_json(line)
        except RequestError as error:
            result = self._failed(error)
        else:
            result = await self._answer(document, self._start_line(document))
        return orjson.dumps(result, option=orjson.OPT_APPEND_NEWLINE)

    def _start_line(self, document: Any) -> Deadline:
        """The line's own deadline: the header's budget, or its scenario's."""
        registry = self._recommender.registry
        name = document.get("scenario") if isinstance(document, dict) else None
        scenario = registry.scenarios.get(name if isinstance(name, str) else registry.default or "")
        default_ms = self._service.settings.deadline_ms if scenario is None else scenario.deadline_ms
        return start_deadline(self._request.state.record, self._service, default_ms, started_at=self._service.clock())

    def _failed(self, error: RequestError) -> dict[str, Any]:
        self._tally[str(error.status)] += 1
        self._service.metrics.batch_rows.labels(str(error.status)).inc()
        return problem(error, self._request.state.record.request_id)


class _LineStream(Response):
    """Sends lines as they are made. Unlike Starlette's stream it leaves `receive` alone: the endpoint still reads."""

    def __init__(self, content: AsyncIterator[bytes]) -> None:
        self._content = content
        super().__init__(media_type=NDJSON)
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for line in self._content:
            await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
