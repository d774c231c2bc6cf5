from __future__ import annotations

import re
from typing import Any

import pytest
from napkin import Running

ROUTES = {
    ("POST", "/v1/recommend"),
    ("POST", "/v1/recommend/batch"),
    ("POST", "/v1/similar"),
    ("POST", "/v1/rank"),
    ("POST", "/v1/rank/batch"),
    ("POST", "/v1/events"),
    ("POST", "/v1/users/{user_id}/merge"),
    ("GET", "/v1/users/{user_id}/export"),
    ("DELETE", "/v1/users/{user_id}"),
    ("DELETE", "/v1/sessions/{session_id}"),
    ("GET", "/v1/models"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
}


@pytest.fixture
async def document(running: Running) -> dict[str, Any]:
    return dict((await running.client.get("/openapi.json")).json())


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_the_document_lists_every_route_and_no_other(document: dict[str, Any]) -> None:
    assert set(operations(document)) == ROUTES


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = set(re.findall(r"'#/components/schemas/(\w+)'", str(document)))

    assert references <= set(document["components"]["schemas"])
    assert "#/$defs" not in str(document)


def test_every_route_has_a_typed_answer_and_typed_problems(document: dict[str, Any]) -> None:
    for (method, path), operation in operations(document).items():
        answers = operation["responses"]
        good = answers["202" if path == "/v1/events" else "200"]["content"]
        if path != "/metrics":
            assert good["application/json"]["schema"]["$ref"], path
        for status, answer in answers.items():
            if int(status) >= 400:
                schema = answer["content"]["application/problem+json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}, (path, status)
        if method == "POST":
            assert operation["requestBody"]["content"]["application/json"]["schema"], path
            assert {"400", "413", "422"} <= set(answers), path
        assert operation["summary"], path


def test_limits_of_the_request_are_in_the_document(document: dict[str, Any]) -> None:
    fields = document["components"]["schemas"]["RecommendRequest"]["properties"]

    count, history = (str(fields[name]) for name in ("count", "history"))
    assert "'minimum': 1" in count
    assert "'maximum': 200" in count
    assert "'maxItems': 500" in history
    requests = document["paths"]["/v1/recommend/batch"]["post"]["requestBody"]["content"]
    assert requests["application/json"]["schema"]["properties"]["requests"]["items"] == {
        "$ref": "#/components/schemas/RecommendRequest"
    }


async def test_the_interactive_documentation_is_served(running: Running) -> None:
    assert "/openapi.json" in (await running.client.get("/docs")).text
