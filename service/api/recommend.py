"""`/v1/recommend` and `/v1/similar`: one question, one answer.

`/v1/recommend` is where the load is: `RecommendRoute` answers it without FastAPI's layers. The route of the same path
documents it, and answers where the application is mounted below another path.
"""

from __future__ import annotations

import logging

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.asks import recommend_ask, similar_ask
from service.api.body import parse_json, read_whole
from service.api.documented import documented
from service.api.gate import REPLY, Record
from service.api.replies import as_response, encode, log_fields, reply_headers
from service.api.schemas import RecommendReply, RecommendRequest, SimilarRequest
from service.deadline import ENVOY_HEADER, GRPC_HEADER, HEADER, Deadline, granted_ms
from service.recommender import Answer
from service.service import Service

PROBLEMS = (400, 404, 408, 413, 422, 503, 504)
PATH = "/v1/recommend"

_OWN, _GRPC, _ENVOY = (name.lower().encode() for name in (HEADER, GRPC_HEADER, ENVOY_HEADER))


def start_deadline(record: Record, service: Service, default_ms: int, *, started_at: float | None = None) -> Deadline:
    """The request's deadline, counted from its arrival where nothing else is said.

    Raises:
        BadHeader: a header that gives a budget is not as its definition says.
    """
    given = record.headers.get
    own, grpc, envoy = given(_OWN), given(_GRPC), given(_ENVOY)
    budget_ms = granted_ms(
        None if own is None else own.decode("latin-1"),
        None if grpc is None else grpc.decode("latin-1"),
        None if envoy is None else envoy.decode("latin-1"),
        default_ms=default_ms,
        max_ms=service.settings.max_deadline_ms,
    )
    return Deadline.start(budget_ms, record.started_at if started_at is None else started_at, service.clock)


async def _recommend(service: Service, record: Record, body: bytes) -> Answer:
    recommender = service.recommender
    ask = recommend_ask(parse_json(body))
    deadline = start_deadline(record, service, recommender.registry.scenario(ask.scenario).deadline_ms)
    record.fields["user"] = service.pseudonyms.of(ask.user_id)
    answer = await recommender.recommend(ask, deadline, crowded=record.crowded)
    if service.log.is_enabled_for(logging.INFO):  # the request's line; at a higher level nobody would read it
        record.fields |= log_fields(answer)
    return answer


class RecommendRoute:
    """ASGI application of the one path, behind a Gate."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["state"]
        record: Record = state["record"]
        body = await read_whole(receive, self._service.settings.max_body_bytes)
        answer = await _recommend(self._service, record, body)
        reply = encode(answer)
        headers = reply_headers(answer, len(reply))
        if at_once := state.get(REPLY):
            lines = [b"%s: %s\r\n" % header for header in (*headers, (b"x-request-id", record.request_id.encode()))]
            if at_once(b"".join((b"HTTP/1.1 200 OK\r\n", *lines)), reply):
                record.status = 200
                return
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply})


def add_recommend(app: FastAPI, service: Service) -> None:
    async def recommend(request: Request) -> Response:
        """Items for a user, a session or a given history, best first."""
        return as_response(await _recommend(service, request.state.record, await request.body()))

    async def similar(request: Request) -> Response:
        """Items like the given ones, best first."""
        recommender = service.recommender
        ask = similar_ask(parse_json(await request.body()))
        record: Record = request.state.record
        deadline = start_deadline(record, service, recommender.registry.scenario(ask.scenario).deadline_ms)
        answer = await recommender.similar(ask, deadline, crowded=record.crowded)
        record.fields |= log_fields(answer)
        return as_response(answer)

    app.add_api_route(
        PATH,
        recommend,
        methods=["POST"],
        **documented(RecommendReply, body=RecommendRequest, problems=PROBLEMS),
    )
    app.add_api_route(
        "/v1/similar",
        similar,
        methods=["POST"],
        **documented(RecommendReply, body=SimilarRequest, problems=PROBLEMS),
    )
