"""Behaviour and the people it belongs to: `/v1/events`, `/v1/users/{id}`, `/v1/sessions/{id}`."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import FastAPI, Path
from starlette.requests import Request
from starlette.responses import Response

from service.api.body import read_body
from service.api.documented import documented
from service.api.recommend import start_deadline
from service.api.schemas import (
    ID_PATTERN,
    DeleteReply,
    EventsReply,
    EventsRequest,
    ExportReply,
    MergeReply,
    MergeRequest,
)
from service.errors import StateUnavailable, StoreUnavailable
from service.service import Service

Result = TypeVar("Result")
PathId = Annotated[str, Path(pattern=ID_PATTERN)]


def add_people(app: FastAPI, service: Service) -> None:
    async def from_store(call: Awaitable[Result]) -> Result:
        """What the store says; these calls need it and have no lower tier."""
        try:
            return await call
        except StoreUnavailable:
            service.metrics.redis_errors.labels("admin").inc()
            raise StateUnavailable("The state store does not answer.", retry_after_s=1) from None

    def reply(document: dict[str, Any], status: int = 200) -> Response:
        return Response(orjson.dumps(document), status, media_type="application/json")

    async def events(request: Request) -> Response:
        """Stores what people did. 202 says whether Redis has it (`stored`) or memory does (`queued`)."""
        # Checked as everywhere, not obeyed: a write has its own limit, and giving up on it early gains nothing.
        start_deadline(request.state.record, service, service.settings.deadline_ms)
        body = await read_body(request, EventsRequest)
        receipt = await service.intake.take(body.events)
        document = {
            "accepted": receipt.accepted,
            "duplicates": receipt.duplicates,
            "rejected": [{"index": index, "code": code} for index, code in receipt.rejected],
            "unknown_items": receipt.unknown_items,
            "durability": receipt.durability,
        }
        request.state.record.fields |= document | {"rejected": len(receipt.rejected)}
        return reply(document, 202)

    async def merge(request: Request, user_id: PathId) -> Response:
        """Moves the events of a session or another user to this user, as when a visitor logs in."""
        body = await read_body(request, MergeRequest)
        moved = await from_store(
            service.store.merge(user_id, from_user_id=body.from_user_id, from_session_id=body.from_session_id)
        )
        if body.from_user_id is not None:
            service.last_lists.drop(("user", body.from_user_id))
        if body.from_session_id is not None:
            service.last_lists.drop(("session", body.from_session_id))
        request.state.record.fields |= {"user": service.pseudonyms.of(user_id), "moved": moved}
        return reply({"moved": moved})

    async def export(request: Request, user_id: PathId) -> Response:
        """Everything stored for the user, oldest first."""
        found = await from_store(service.store.export_user(user_id))
        request.state.record.fields |= {"user": service.pseudonyms.of(user_id), "n_events": len(found)}
        return reply({"user_id": user_id, "events": found})

    async def delete_user(request: Request, user_id: PathId) -> Response:
        """Deletes what is stored for the user, and the sessions that the user's events name."""
        sessions = {event.session_id for event in await from_store(service.store.export_user(user_id))}
        service.writer.forget(user_id=user_id)
        deleted = await from_store(service.store.delete_user(user_id))
        service.last_lists.drop(("user", user_id))
        for session_id in sessions - {None}:
            service.last_lists.drop(("session", str(session_id)))
        request.state.record.fields |= {"user": service.pseudonyms.of(user_id), "deleted": deleted}
        return reply({"deleted": deleted})

    async def delete_session(request: Request, session_id: PathId) -> Response:
        """Deletes what is stored for the session."""
        service.writer.forget(session_id=session_id)
        deleted = await from_store(service.store.delete_session(session_id))
        service.last_lists.drop(("session", session_id))
        request.state.record.fields["deleted"] = deleted
        return reply({"deleted": deleted})

    body_problems, path_problems = (400, 413, 422, 503), (422, 503)
    app.add_api_route(
        "/v1/events",
        events,
        methods=["POST"],
        **documented(EventsReply, body=EventsRequest, status=202, problems=body_problems),
    )
    app.add_api_route(
        "/v1/users/{user_id}/merge",
        merge,
        methods=["POST"],
        **documented(MergeReply, body=MergeRequest, problems=body_problems),
    )
    app.add_api_route(
        "/v1/users/{user_id}/export", export, methods=["GET"], **documented(ExportReply, problems=path_problems)
    )
    app.add_api_route(
        "/v1/users/{user_id}", delete_user, methods=["DELETE"], **documented(DeleteReply, problems=path_problems)
    )
    app.add_api_route(
        "/v1/sessions/{session_id}",
        delete_session,
        methods=["DELETE"],
        **documented(DeleteReply, problems=path_problems),
    )
