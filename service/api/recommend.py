"""`/v1/recommend` and `/v1/similar`: one question, one answer."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from service.api.body import read_body
from service.api.documented import documented
from service.api.replies import as_response, log_fields
from service.api.schemas import RecommendReply, RecommendRequest, SimilarRequest
from service.deadline import HEADER, Deadline, granted_ms
from service.service import Service

PROBLEMS = (400, 404, 413, 422, 503, 504)


def start_deadline(request: Request, service: Service, default_ms: int, *, started_at: float | None = None) -> Deadline:
    """The request's deadline, counted from its arrival where nothing else is said.

    Raises:
        BadHeader: the header is not a whole number of milliseconds, at least 1.
    """
    header = request.headers.get(HEADER)
    budget_ms = granted_ms(header, default_ms=default_ms, max_ms=service.settings.max_deadline_ms)
    arrived_at: float = request.state.record.started_at
    return Deadline.start(budget_ms, arrived_at if started_at is None else started_at, service.clock)


def add_recommend(app: FastAPI, service: Service) -> None:
    async def recommend(request: Request) -> Response:
        """Items for a user, a session or a given history, best first."""
        recommender = service.recommender
        ask = await read_body(request, RecommendRequest)
        deadline = start_deadline(request, service, recommender.registry.scenario(ask.scenario).deadline_ms)
        request.state.record.fields["user"] = service.pseudonyms.of(ask.user_id)
        answer = await recommender.recommend(ask, deadline)
        request.state.record.fields |= log_fields(answer)
        return as_response(answer)

    async def similar(request: Request) -> Response:
        """Items like the given ones, best first."""
        recommender = service.recommender
        ask = await read_body(request, SimilarRequest)
        deadline = start_deadline(request, service, recommender.registry.scenario(ask.scenario).deadline_ms)
        answer = await recommender.similar(ask, deadline)
        request.state.record.fields |= log_fields(answer)
        return as_response(answer)

    app.add_api_route(
        "/v1/recommend",
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
