from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from napkin import Running, Start, ids

from service.api.body import lines
from service.api.schemas import BatchReply, RecommendReply
from service.errors import BodyTooLarge

PATH = "/v1/recommend/batch"
NDJSON = {"Content-Type": "application/x-ndjson"}


def ask(item_id: str, **more: Any) -> dict[str, Any]:
    return {"history": [{"item_id": item_id}], **more}


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def stream(running: Running, *parts: bytes, **headers: str) -> list[dict[str, Any]]:
    response = await running.client.post(PATH, content=chunks(*parts), headers=NDJSON | headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [orjson.loads(line) for line in response.content.splitlines()]


async def test_a_batch_answers_each_request_in_order_and_a_bad_one_fails_alone(running: Running) -> None:
    requests = [ask("a"), ask("e", count=0), ask("e"), "what", ask("a", scenario="nowhere"), {}]

    response = await running.post(PATH, {"requests": requests})

    assert response.status_code == 200
    BatchReply.model_validate(response.json())
    results = response.json()["results"]
    assert [result["status"] for result in results] == [200, 422, 200, 422, 404, 200]
    assert ids(results[0]) == ["b", "c", "d"]
    assert results[1]["errors"][0]["pointer"] == "/count"
    assert ids(results[2]) == ["d", "c", "b"]
    assert results[4]["code"] == "unknown_scenario"
    assert results[5]["served"]["reasons"] == ["empty_history"]


async def test_the_answer_to_a_sub_request_is_the_answer_it_gets_alone(running: Running) -> None:
    requests = [ask(item_id, count=count) for item_id in "abcdef" for count in range(1, 43)]

    results = (await running.post(PATH, {"requests": requests})).json()["results"]

    assert len(results) == 252
    for request, result in zip(requests[::17], results[::17], strict=True):
        assert result["items"] == (await running.recommend(**request))["items"]


async def test_a_batch_has_one_deadline_for_all(running: Running) -> None:
    """Its second half comes to its turn when the budget has ended."""
    await running.look("a", user_id="u1")
    running.store.before_read = lambda: running.clock.advance(0.03)
    requests = [{"user_id": "u1"} for _ in range(4)]

    response = await running.post(PATH, {"requests": requests}, **{"X-Request-Timeout-Ms": "50"})

    results = response.json()["results"]
    assert {result["status"] for result in results} == {200}
    assert results[-1]["served"]["reasons"] == ["deadline_exceeded"]
    assert {result["budget_ms"]["granted"] for result in results} == {50}


async def test_a_batch_without_the_header_has_the_batch_budget(running: Running) -> None:
    (result,) = (await running.post(PATH, {"requests": [ask("a")]})).json()["results"]

    assert result["budget_ms"]["granted"] == 5_000


async def test_a_stream_answers_line_by_line_in_order(running: Running) -> None:
    body = b"\n".join(orjson.dumps(ask("a" if n % 2 else "e", count=1 + n % 5)) for n in range(600))

    results = await stream(running, body)

    assert len(results) == 600
    for n, result in enumerate(results):
        RecommendReply.model_validate({name: value for name, value in result.items() if name != "status"})
        assert result["status"] == 200
        assert ids(result) == (["b", "c", "d", "e", "f"] if n % 2 else ["d", "c", "b", "f", "a"])[: 1 + n % 5]


async def test_a_bad_line_is_a_problem_and_the_stream_goes_on(start: Start) -> None:
    async with start(max_body_bytes=1_024) as running:
        good = orjson.dumps(ask("a"))
        long = orjson.dumps({"history": [{"item_id": "a" * 100}] * 20})
        results = await stream(running, good + b"\n{]\n\n", b'{"count":0}\n', long + b"\n[]\r\n", good)

    assert [(result["status"], result.get("code")) for result in results] == [
        (200, None),
        (400, "malformed_json"),
        (422, "validation_failed"),
        (413, "body_too_large"),
        (422, "validation_failed"),
        (200, None),
    ]


async def test_a_streams_lines_have_a_deadline_each(running: Running) -> None:
    running.store.before_read = lambda: running.clock.advance(0.06)
    line = orjson.dumps({"user_id": "u1"}) + b"\n"

    results = await stream(running, *[line] * 5, **{"X-Request-Timeout-Ms": "100"})

    assert [result["served"]["reasons"] for result in results] == [["empty_history"]] * 5


async def test_a_stream_is_answered_while_it_is_still_being_sent(running: Running) -> None:
    """A client may wait for an answer before it asks again."""
    line = orjson.dumps(ask("a")) + b"\n"
    answers: asyncio.Queue[bytes] = asyncio.Queue()
    to_send = [line, line, b""]

    async def receive() -> dict[str, Any]:
        if len(to_send) < 3:
            await answers.get()
        part = to_send.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(to_send)}

    async def send(message: dict[str, Any]) -> None:
        if message.get("body"):
            await answers.put(message["body"])

    transport: Any = running.client._transport
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": PATH,
        "raw_path": PATH.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(b"content-type", b"application/x-ndjson")],
        "server": ("test", 80),
        "client": None,
    }
    async with asyncio.timeout(10):
        await transport.app(scope, receive, send)

    assert not to_send


async def test_a_client_that_leaves_in_the_middle_ends_the_stream(running: Running) -> None:
    class GoneError(Exception):
        pass

    async def body() -> AsyncIterator[bytes]:
        yield orjson.dumps(ask("a")) + b"\n"
        raise GoneError

    with pytest.raises(GoneError):
        await running.client.post(PATH, content=body(), headers=NDJSON)

    assert ids(await running.recommend(history=[{"item_id": "a"}])) == ["b", "c", "d"]


async def test_a_bad_header_fails_the_whole_stream_before_it_starts(running: Running) -> None:
    response = await running.client.post(PATH, content=b"{}", headers=NDJSON | {"X-Request-Timeout-Ms": "soon"})

    assert (response.status_code, response.json()["code"]) == (400, "bad_header")


async def test_sub_requests_are_counted_by_status_and_tier(running: Running) -> None:
    await running.post(PATH, {"requests": [ask("a"), {}, {"count": 0}]})

    samples = running.metrics()
    assert samples['afterglow_batch_rows_total{result="200"}'] == 2
    assert samples['afterglow_batch_rows_total{result="422"}'] == 1
    assert running.log_lines()[-1]["tiers"] == {"model": 1, "popular": 1, "422": 1}


@given(st.lists(st.text("ab\n", max_size=9)), st.integers(1, 7))
async def test_lines_do_not_depend_on_how_the_stream_was_cut(parts: list[str], max_bytes: int) -> None:
    whole = "".join(parts)
    expected = [line if len(line) <= max_bytes else "too long" for line in whole.split("\n") if line]

    found = [
        "too long" if isinstance(line, BodyTooLarge) else line.decode()
        async for line in lines(chunks(*(part.encode() for part in parts)), max_bytes)
    ]

    assert found == expected
