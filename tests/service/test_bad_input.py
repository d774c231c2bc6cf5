"""Whatever comes in, what goes out is a problem with a stable code, without the caller's values; nothing is stored."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from napkin import Running, Start

from service.api.schemas import Problem

RECOMMEND, BATCH, EVENTS, SIMILAR = "/v1/recommend", "/v1/recommend/batch", "/v1/events", "/v1/similar"
SECRET = "s3cr3t"


def history(n: int, item_id: str = "a") -> list[dict[str, str]]:
    return [{"item_id": item_id}] * n


def event(**changes: Any) -> dict[str, Any]:
    return {"events": [{"type": "view", "item_id": "a", "user_id": "u1", **changes}]}


BAD_JSON: dict[str, bytes] = {
    "nothing": b"",
    "half": b'{"history": [',
    "two documents": b"{}{}",
    "trailing comma": b'{"count": 5,}',
    "single quotes": b"{'count': 5}",
    "NaN": b'{"history": [{"item_id": "a", "ts": NaN}]}',
    "Infinity": b'{"history": [{"item_id": "a", "ts": Infinity}]}',
    "a number beyond floats": b'{"history": [{"item_id": "a", "ts": 1e400}]}',
    "an integer of 100,000 digits": b'{"count": ' + b"9" * 100_000 + b"}",
    "invalid UTF-8": b'{"user_id": "\xff\xfe"}',
    "overlong UTF-8": b'{"user_id": "\xc0\xaf"}',
    "half a surrogate": b'{"user_id": "\\ud800"}',
    "nesting of 100,000": b"[" * 100_000,
    "nesting of 2,000, closed": b'{"history":' + b"[" * 2_000 + b"]" * 2_000 + b"}",
    "a bare NUL": b"\x00",
    "a form": b"user_id=u1&count=5",
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
}

BAD_BODY: dict[str, tuple[str, Any, str]] = {
    "an unknown field": (RECOMMEND, {"userid": SECRET}, "/userid"),
    "an unknown field inside": (RECOMMEND, {"exclude": {"itemids": [SECRET]}}, "/exclude/itemids"),
    "a field that is not there yet": (RECOMMEND, {"filter": {}}, "/filter"),
    "count 0": (RECOMMEND, {"count": 0}, "/count"),
    "count -1": (RECOMMEND, {"count": -1}, "/count"),
    "count 201": (RECOMMEND, {"count": 201}, "/count"),
    "count 10^9": (RECOMMEND, {"count": 10**9}, "/count"),
    "count 10^18": (RECOMMEND, {"count": 10**18}, "/count"),
    "count as text": (RECOMMEND, {"count": "10"}, "/count"),
    "count as a fraction": (RECOMMEND, {"count": 2.5}, "/count"),
    "count as a truth": (RECOMMEND, {"count": True}, "/count"),
    "501 items of history": (RECOMMEND, {"history": history(501)}, "/history"),
    "10,000 items of history": (RECOMMEND, {"history": history(10_000)}, "/history"),
    "1,001 exclusions": (RECOMMEND, {"exclude": {"item_ids": ["a"] * 1_001}}, "/exclude/item_ids"),
    "an empty id": (RECOMMEND, {"user_id": ""}, "/user_id"),
    "a long id": (RECOMMEND, {"user_id": SECRET * 30}, "/user_id"),
    "an id with a newline at its end": (RECOMMEND, {"user_id": "u1\n"}, "/user_id"),
    "an id with NUL": (RECOMMEND, {"session_id": f"{SECRET}\x00"}, "/session_id"),
    "an id with control characters": (RECOMMEND, {"history": history(1, "\x1b[31m")}, "/history/0/item_id"),
    "an id with a space": (RECOMMEND, {"user_id": f"{SECRET} x"}, "/user_id"),
    "an id in another script": (RECOMMEND, {"user_id": "ü"}, "/user_id"),
    "an id as a number": (RECOMMEND, {"user_id": 42}, "/user_id"),
    "a history of strings": (RECOMMEND, {"history": ["a"]}, "/history/0"),
    "a history that is an object": (RECOMMEND, {"history": {"item_id": "a"}}, "/history"),
    "a time as text": (RECOMMEND, {"history": [{"item_id": "a", "ts": SECRET}]}, "/history/0/ts"),
    "a degrade that does not exist": (RECOMMEND, {"degrade": SECRET}, "/degrade"),
    "no exclusions at all": (RECOMMEND, {"exclude": None}, "/exclude"),
    "a list": (RECOMMEND, [], ""),
    "a string": (RECOMMEND, SECRET, ""),
    "null": (RECOMMEND, None, ""),
    "deep nesting": (RECOMMEND, {"history": [[[[[[[[]]]]]]]]}, "/history/0"),
    "a path in the name of a field": (RECOMMEND, {"a/b~c": 1}, "/a~1b~0c"),
    "nothing to be similar to": (SIMILAR, {"item_ids": []}, "/item_ids"),
    "51 seeds": (SIMILAR, {"item_ids": ["a"] * 51}, "/item_ids"),
    "no seeds": (SIMILAR, {}, "/item_ids"),
    "257 sub-requests": (BATCH, {"requests": [{}] * 257}, "/requests"),
    "an empty batch": (BATCH, {"requests": []}, "/requests"),
    "a batch that is a list": (BATCH, [{}], ""),
    "no events": (EVENTS, {"events": []}, "/events"),
    "1,001 events": (EVENTS, {"events": event()["events"] * 1_001}, "/events"),
    "an event of nobody": (EVENTS, event(user_id=None), "/events/0"),
    "an event without type": (EVENTS, {"events": [{"item_id": "a", "user_id": "u1"}]}, "/events/0/type"),
    "an event with a bad type": (EVENTS, event(type=f"{SECRET} "), "/events/0/type"),
    "an event with a bad id": (EVENTS, event(event_id=f"{SECRET}\n"), "/events/0/event_id"),
    "an event with an unknown field": (EVENTS, event(value=1.0), "/events/0/value"),
    "a good and a bad event": (EVENTS, {"events": [*event()["events"], {}]}, "/events/1/item_id"),
    "a merge of nothing": ("/v1/users/u1/merge", {}, ""),
    "a merge from a bad id": ("/v1/users/u1/merge", {"from_user_id": " "}, "/from_user_id"),
}


async def assert_problem(running: Running, response: Any, status: int, code: str) -> dict[str, Any]:
    """The response is this problem, named like the request, silent about its values; and nothing was stored."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    Problem.model_validate(problem)
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["type"] == f"urn:afterglow:problem:{code}"
    assert problem["request_id"] == response.headers["x-request-id"]
    assert SECRET not in response.text
    assert running.store.inner._timelines == {}
    assert SECRET.encode() not in running.log.getvalue()
    return dict(problem)


@pytest.mark.parametrize("path", [RECOMMEND, BATCH, EVENTS, SIMILAR, "/v1/users/u1/merge"])
@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON.keys())
async def test_what_is_not_json_is_malformed(running: Running, path: str, body: bytes) -> None:
    await assert_problem(running, await running.post(path, body), 400, "malformed_json")


@pytest.mark.parametrize(("path", "body", "pointer"), BAD_BODY.values(), ids=BAD_BODY.keys())
async def test_what_does_not_fit_is_pointed_at(running: Running, path: str, body: Any, pointer: str) -> None:
    problem = await assert_problem(running, await running.post(path, body), 422, "validation_failed")

    assert problem["errors"][0]["pointer"] == pointer
    assert all(error["code"] and error["detail"] for error in problem["errors"])


async def test_a_body_with_many_faults_reports_the_first_twenty(running: Running) -> None:
    response = await running.post(RECOMMEND, {"history": [{"item_id": ""}] * 100})

    assert len((await assert_problem(running, response, 422, "validation_failed"))["errors"]) == 20


@pytest.mark.parametrize("header", ["0", "-5", "soon", "", "1.5", "1e3", "0x10", "٣".encode().decode("latin-1")])
@pytest.mark.parametrize(
    ("path", "body"), [(RECOMMEND, {}), (SIMILAR, {"item_ids": ["a"]}), (BATCH, {"requests": [{}]}), (EVENTS, event())]
)
async def test_a_deadline_that_is_no_positive_integer_is_a_bad_header(
    running: Running, path: str, body: Any, header: str
) -> None:
    response = await running.client.post(
        path, content=orjson.dumps(body), headers=[(b"x-request-timeout-ms", header.encode("latin-1"))]
    )

    await assert_problem(running, response, 400, "bad_header")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"scenario": SECRET}, "unknown_scenario"),
        ({"model": {"name": SECRET}}, "unknown_model"),
        ({"model": {"name": "napkin", "version": SECRET}}, "unknown_model"),
    ],
)
@pytest.mark.parametrize("path", [RECOMMEND, SIMILAR])
async def test_unknown_scenarios_and_models_are_not_found(
    running: Running, path: str, body: dict[str, Any], code: str
) -> None:
    more = {"item_ids": ["a"]} if path == SIMILAR else {}

    await assert_problem(running, await running.post(path, body | more), 404, code)


@pytest.mark.parametrize(
    "path", ["/", f"/v1/{SECRET}", "/v1/recommend/", "/v2/recommend", "/admin", "/v1/users/", "/v1/users/a/b/c"]
)
async def test_unknown_routes_are_not_found(running: Running, path: str) -> None:
    await assert_problem(running, await running.client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", RECOMMEND, "POST"),
        ("PUT", EVENTS, "POST"),
        ("POST", "/livez", "GET"),
        ("PATCH", "/v1/users/u1", "DELETE"),
    ],
)
async def test_a_wrong_method_is_told_the_right_one(running: Running, method: str, path: str, allowed: str) -> None:
    response = await running.client.request(method, path)

    await assert_problem(running, response, 405, "method_not_allowed")
    assert response.headers["Allow"] == allowed


@pytest.mark.parametrize("path", ["/v1/users/%20", f"/v1/users/{'a' * 129}", "/v1/sessions/a%0A", "/v1/users/%00"])
async def test_a_bad_id_in_the_path_does_not_fit(running: Running, path: str) -> None:
    problem = await assert_problem(running, await running.client.delete(path), 422, "validation_failed")

    assert problem["errors"][0]["pointer"].startswith("/path/")


@pytest.mark.parametrize(
    ("path", "limit"), [(RECOMMEND, 256 * 1024), (SIMILAR, 256 * 1024), (BATCH, 4 << 20), (EVENTS, 4 << 20)]
)
async def test_a_body_over_its_limit_is_too_large_and_one_at_the_limit_is_read(
    running: Running, path: str, limit: int
) -> None:
    padded = b" " * (limit - 1) + b"x"

    await assert_problem(running, await running.post(path, padded), 400, "malformed_json")
    await assert_problem(running, await running.post(path, padded + b"x"), 413, "body_too_large")


@pytest.mark.parametrize("path", [RECOMMEND, EVENTS])
async def test_a_chunked_body_of_ten_megabytes_is_cut_off_early(running: Running, path: str) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(160):
            sent += 1
            yield b" " * 65_536

    response = await running.client.post(path, content=body())

    assert "content-length" not in response.request.headers
    await assert_problem(running, response, 413, "body_too_large")
    assert sent <= 66  # 4 MiB and a chunk


async def test_a_declared_length_is_believed_before_anything_is_read(running: Running) -> None:
    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    for length in ("10485760", "9" * 30, "-1"):
        response = await running.client.post(RECOMMEND, content=body(), headers={"Content-Length": length})
        await assert_problem(running, response, 413, "body_too_large")


async def test_a_client_that_leaves_in_the_middle_is_no_error_of_ours(running: Running) -> None:
    messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        raise AssertionError("nobody listens")

    transport: Any = running.client._transport
    scope = {"type": "http", "method": "POST", "path": RECOMMEND, "query_string": b"", "root_path": "", "headers": []}
    await transport.app(scope, receive, send)

    (line,) = running.log_lines()
    assert (line["level"], line["code"], line["status"]) == ("info", "client_gone", 499)


@pytest.mark.parametrize(
    ("body", "unknown"),
    [({"history": history(3, "nobody")}, 3), ({"history": []}, 0), ({"exclude": {"item_ids": ["nobody"]}}, 0)],
)
async def test_unknown_items_and_an_empty_history_are_fine(running: Running, body: Any, unknown: int) -> None:
    response = await running.post(RECOMMEND, body)

    assert response.status_code == 200
    assert response.json()["served"]["unknown_items"] == unknown


async def test_a_fault_of_our_own_is_a_problem_without_details(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_args: Any, **_options: Any) -> Any:
        raise KeyError(SECRET)

    monkeypatch.setattr(running.store, "recall", fail)

    response = await running.post(RECOMMEND, {"user_id": "u1"})

    await assert_problem(running, response, 500, "internal")
    (line,) = [line for line in running.log_lines() if line["event"] == "internal_error"]
    assert line["error"] == "KeyError"
    assert line["request_id"] == response.headers["x-request-id"]
    assert any("recommender.py" in frame for frame in line["frames"])


TEXT = st.text(st.characters(codec="utf-8"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=8,
)
FIELDS = ["user_id", "history", "count", "exclude", "scenario", "model", "degrade", "item_ids", "events", "requests"]
FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)


@FUZZ
@given(
    path=st.sampled_from([RECOMMEND, BATCH, EVENTS, SIMILAR, "/v1/users/u1/merge"]),
    body=st.binary() | st.dictionaries(st.sampled_from(FIELDS), JSON).map(lambda body: orjson.dumps(body)),
    header=st.none() | st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"])),
)
async def test_no_input_is_a_server_error(running: Running, path: str, body: bytes, header: str | None) -> None:
    headers = [] if header is None else [(b"x-request-timeout-ms", header.encode("latin-1"))]

    response = await running.client.post(path, content=body, headers=headers)

    assert response.status_code < 500, response.text


async def test_an_integer_beyond_64_bits_is_no_server_error(running: Running) -> None:
    response = await running.post(RECOMMEND, b'{"count": 123456789012345678901234567890}')

    await assert_problem(running, response, 422, "validation_failed")


async def test_while_models_load_questions_are_put_off(start: Start) -> None:
    def never() -> Any:
        gate.wait(10)
        raise SystemExit

    gate = threading.Event()
    async with start(never) as running:
        for path in (RECOMMEND, BATCH, SIMILAR):
            await assert_problem(running, await running.post(path, {}), 503, "not_ready")
        await assert_problem(running, await running.client.get("/readyz"), 503, "not_ready")
        assert (await running.client.get("/livez")).status_code == 200
        gate.set()
        await running.service.until_loaded()
