"""`/v1/recommend` and `/v1/similar`: one question, one answer.

`/v1/recommend` is where the load is: connections answer it themselves, as a straight route. FastAPI's route of the same
path documents it, and answers what goes the long way: pipelined requests, those with a query, another server's.
"""

from __future__ import annotations

import logging

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from service.api.asks import recommend_ask, similar_ask
from service.api.body import parse_json
from service.api.documented import documented
from service.api.exchange import StraightRoute
from service.api.record import Record, Records
from service.api.replies import as_response, encode, head_lines, log_fields
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
    is_logged = service.log.is_enabled_for(logging.INFO)  # at a higher level nobody would read the request's line
    if is_logged:
        record.fields["user"] = service.pseudonyms.of(ask.user_id)
    answer = await recommender.recommend(ask, deadline, crowded=record.crowded)
    if is_logged:
        record.fields |= log_fields(answer)
    return answer


def straight_recommend(service: Service, records: Records) -> StraightRoute:
    """The route as connections answer it."""

    async def work(record: Record, body: bytes) -> tuple[bytes, bytes]:
        answer = await _recommend(service, record, body)
        reply = encode(answer)
        return head_lines(answer, len(reply)), reply

    return StraightRoute(PATH, work, records, max_body_bytes=service.settings.max_body_bytes)


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
