"""Errors as RFC 9457 problems: one shape, one handler, never a value that the caller sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.errors import RequestError, ValidationFailed

MEDIA_TYPE = "application/problem+json"
_MAX_ERRORS = 20
_MAX_NAME = 64


def problem(error: RequestError, request_id: str) -> dict[str, Any]:
    """The body of a problem, as `schemas.Problem` describes it."""
    return {
        "type": f"urn:afterglow:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        "request_id": request_id,
        "errors": error.errors,
    }


def problem_response(error: RequestError, request_id: str, headers: Mapping[str, str] | None = None) -> Response:
    all_headers = dict(headers or {})
    if error.retry_after_s is not None:
        all_headers["Retry-After"] = str(error.retry_after_s)
    return Response(orjson.dumps(problem(error, request_id)), error.status, all_headers, MEDIA_TYPE)


def validation_failed(faults: Sequence[Mapping[str, Any]], *, prefix: Sequence[str | int] = ()) -> ValidationFailed:
    """Pydantic's findings with JSON pointers; at most 20 of them."""
    errors = [
        {
            "pointer": _pointer((*prefix, *fault["loc"])),
            "code": str(fault["type"]),
            "detail": str(fault["msg"]).removeprefix("Value error, "),
        }
        for fault in faults[:_MAX_ERRORS]
    ]
    fields = "one field" if len(faults) == 1 else f"{len(faults)} fields"
    return ValidationFailed(f"The request does not fit its schema in {fields}; see errors.", errors=errors)


def findings(error: ValidationError) -> list[Any]:
    """What pydantic found, without the values."""
    return error.errors(include_url=False, include_context=False, include_input=False)


def add_handlers(app: FastAPI) -> None:
    """Makes `app` answer every error as a problem."""

    async def on_request_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        request.state.record.code = error.code
        return problem_response(error, request.state.record.request_id)

    async def on_path_or_query(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return await on_request_error(request, validation_failed(error.errors()))

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        request.state.record.code = code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http")
        known = RequestError("No such route." if error.status_code == 404 else str(error.detail), code=code)
        known.status, known.title = error.status_code, str(error.detail)
        return problem_response(known, request.state.record.request_id, error.headers)

    app.add_exception_handler(RequestError, on_request_error)
    app.add_exception_handler(RequestValidationError, on_path_or_query)
    app.add_exception_handler(HTTPException, on_http_exception)


def _pointer(path: Sequence[str | int]) -> str:
    """RFC 6901. A name that the caller made up is cut short: it is a place, not a payload."""
    parts = (str(part)[:_MAX_NAME].replace("~", "~0").replace("/", "~1") for part in path)
    return "".join(f"/{part}" for part in parts)
