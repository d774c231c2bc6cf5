"""Routes that read and write bytes themselves, with the models that describe them in OpenAPI."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from service.api import schemas
from service.api.problems import MEDIA_TYPE

_REF = "#/components/schemas/{model}"
_TITLES = {
    400: "Malformed JSON or header",
    404: "Unknown scenario, model or route",
    405: "Method not allowed",
    408: "The request did not arrive in time",
    413: "Body too large",
    422: "The request does not fit its schema",
    503: "Not ready, draining, overloaded, or the state store is away",
    504: "The deadline passed, and the request forbids a lower tier",
}


def documented(
    reply: type[BaseModel] | str,
    *,
    body: type[BaseModel] | None = None,
    body_schema: dict[str, Any] | None = None,
    status: int = 200,
    problems: tuple[int, ...] = (),
    ndjson: bool = False,
) -> dict[str, Any]:
    """Arguments of `add_api_route` for an endpoint that returns a finished `Response`.

    Args:
        reply: the model of the reply, or the media type of one that is text.
        body: the model of the body, or `body_schema` where the endpoint checks parts one by one.
        ndjson: the route also takes and gives one JSON document a line.
    """
    if isinstance(reply, str):
        content: dict[str, Any] = {reply: {"schema": {"type": "string"}}}
    else:
        content = {"application/json": {"schema": ref(reply)}}
    if ndjson:
        content["application/x-ndjson"] = {"schema": {"type": "string"}}
    responses: dict[int | str, dict[str, Any]] = {status: {"description": "Answer", "content": content}}
    for code in problems:
        responses[code] = {"description": _TITLES[code], "content": {MEDIA_TYPE: {"schema": ref(schemas.Problem)}}}
    route: dict[str, Any] = {"response_class": Response, "status_code": status, "responses": responses}
    if body is not None or body_schema is not None:
        media = {"application/json": {"schema": body_schema or ref(body or schemas.Request)}}
        if ndjson:
            media["application/x-ndjson"] = {"schema": {"type": "string"}}
        route["openapi_extra"] = {"requestBody": {"required": True, "content": media}}
    return route


def ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}


def add_openapi(app: FastAPI) -> None:
    """Makes `app.openapi()` hold the schemas that `ref` points to."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            components = document.setdefault("components", {}).setdefault("schemas", {})
            for unused in ("HTTPValidationError", "ValidationError"):
                components.pop(unused, None)
            components |= _components()
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _components() -> dict[str, Any]:
    models = [
        model
        for model in vars(schemas).values()
        if isinstance(model, type) and issubclass(model, BaseModel) and model.__module__ == schemas.__name__
    ]
    _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    components: dict[str, Any] = definitions["$defs"]
    return components
