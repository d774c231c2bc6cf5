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

from service.api import schemas
from service.api.body import lines, parse, parse_json, read_body
from service.api.documented import documented, ref
from service.api.problems import problem
from service.api.recommend import PROBLEMS, start_deadline
from service.api.replies import as_document
from service.api.schemas import BatchReply, BatchRequest, RecommendRequest
from service.deadline import HEADER, Deadline, granted_ms
from service.errors import RequestError
from service.logs import describe
from service.service import Service

NDJSON = "application/x-ndjson"


def is_ndjson(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == NDJSON


def add_batch(app: FastAPI, service: Service) -> None:
    # Twice the engine's batch: one in the run, one waiting for it. More would only stand in the queue.
    in_flight = 2 * service.settings.max_batch

    async def answer(request: Request, document: Any, deadline: Deadline, tally: Counter[str]) -> dict[str, Any]:
        """A reply with its status, or a problem."""
        try:
            ask = parse(document, RecommendRequest)
            made = await service.recommender.recommend(ask, deadline, bulk=True)
        except Exception as error:
            known = error if isinstance(error, RequestError) else RequestError("Something went wrong on our side.")
            if known is not error:
                service.log.error("internal_error", request_id=request.state.record.request_id, **describe(error))
            return failed(request, known, tally)
        tally[made.picked.tier] += 1
        service.metrics.batch_rows.labels("200").inc()
        return {"status": 200, **as_document(made)}

    def failed(request: Request, error: RequestError, tally: Counter[str]) -> dict[str, Any]:
        tally[str(error.status)] += 1
        service.metrics.batch_rows.labels(str(error.status)).inc()
        return problem(error, request.state.record.request_id)

    async def batch(request: Request) -> Response:
        """Up to 256 requests in one document; as `application/x-ndjson` any number, one a line."""
        service.recommender  # noqa: B018  raises NotReady before anything is read
        tally: Counter[str] = Counter()
        request.state.record.fields["tiers"] = tally
        deadline = start_deadline(request, service, service.settings.batch_deadline_ms)
        if is_ndjson(request.headers.get("content-type", "")):
            return LineStream(stream(request, tally))
        body = await read_body(request, BatchRequest)
        slots = asyncio.Semaphore(in_flight)

        async def in_turn(document: Any) -> dict[str, Any]:
            async with slots:
                return await answer(request, document, deadline, tally)

        results = await asyncio.gather(*(in_turn(document) for document in body.requests))
        return Response(orjson.dumps({"results": results}), media_type="application/json")

    async def answer_line(request: Request, line: bytes | RequestError, tally: Counter[str]) -> bytes:
        result: dict[str, Any]
        try:
            if isinstance(line, RequestError):
                raise line
            document = parse_json(line)
            deadline = start_line(request, document)
        except RequestError as error:
            result = failed(request, error, tally)
        else:
            result = await answer(request, document, deadline, tally)
        return orjson.dumps(result, option=orjson.OPT_APPEND_NEWLINE)

    def start_line(request: Request, document: Any) -> Deadline:
        """The line's own deadline: the header's budget, or its scenario's."""
        name = document.get("scenario") if isinstance(document, dict) else None
        scenario = service.recommender.registry.scenarios.get(name) if isinstance(name, str) else None
        default_ms = scenario.deadline_ms if scenario else service.settings.deadline_ms
        budget_ms = granted_ms(
            request.headers.get(HEADER), default_ms=default_ms, max_ms=service.settings.max_deadline_ms
        )
        return Deadline.start(budget_ms, service.clock(), service.clock)

    async def stream(request: Request, tally: Counter[str]) -> AsyncIterator[bytes]:
        """Answers in order, while further lines are read."""
        pending: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(maxsize=in_flight)

        async def read() -> None:
            try:
                async for line in lines(request.stream(), service.settings.max_body_bytes):
                    await pending.put(asyncio.create_task(answer_line(request, line, tally)))
            except ClientDisconnect:
                request.state.record.code = "client_gone"
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

    app.add_api_route(
        "/v1/recommend/batch",
        batch,
        methods=["POST"],
        **documented(
            BatchReply,
            body_schema={
                **BatchRequest.model_json_schema(),
                "properties": {
                    "requests": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": schemas.MAX_SUB_REQUESTS,
                        "items": ref(RecommendRequest),
                    }
                },
            },
            problems=PROBLEMS,
            ndjson=True,
        ),
    )


class LineStream(Response):
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
