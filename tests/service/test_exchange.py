"""A straight route over a real socket says and keeps what the long way through FastAPI says and keeps."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sockets import HeldRuns, Served, ask, holding, post, serving, status_of, until

from service.registry import Registry
from service.served_model import ServedModel

PATH = "/v1/recommend"
LABELS = {"route": PATH, "method": "POST"}


@pytest.fixture
def serve(registry: Registry) -> Iterator[Callable[..., Served]]:
    yield from serving(registry)


@pytest.fixture
def gate(models: dict[str, ServedModel], monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldRuns]:
    yield from holding(models, monkeypatch)


def read_reply(client: socket.socket) -> tuple[bytes, dict[str, str], bytes]:
    """Status line, headers and body of exactly one reply."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = client.recv(1)
        assert chunk, received
        received += chunk
    status, *lines = received.decode().split("\r\n")[:-2]
    headers = dict(line.split(": ", 1) for line in lines)
    body = b""
    while len(body) < int(headers["content-length"]):
        body += client.recv(int(headers["content-length"]) - len(body))
    return status.encode(), headers, body


def read_all(client: socket.socket) -> bytes:
    received = b""
    while chunk := client.recv(65_536):
        received += chunk
    return received


def shape_of(document: Any) -> Any:
    """The document without its numbers and ids."""
    if isinstance(document, dict):
        return {name: shape_of(value) for name, value in document.items()}
    return [shape_of(value) for value in document] if isinstance(document, list) else type(document)


@pytest.mark.parametrize(
    "body",
    [ask("a", "b", count=2), ask("a", degrade="often"), b"{", ask("a", scenario="nowhere"), ask("a", explain=True)],
    ids=["right", "invalid", "malformed", "unknown scenario", "explained"],
)
def test_the_straight_reply_is_the_one_of_the_long_way(
    serve: Callable[..., Served],
    body: bytes,
) -> None:
    served = serve()
    client = served.raw()
    client.sendall(post(body))
    straight = read_reply(client)
    client.sendall(post(body, PATH + "?long"))
    long = read_reply(client)

    assert straight[0] == long[0]
    assert straight[1].keys() == long[1].keys()
    for name in ("content-type", "x-served-tier"):
        assert straight[1].get(name) == long[1].get(name)
    first, second = json.loads(straight[2]), json.loads(long[2])
    assert shape_of(first) == shape_of(second)
    assert first.get("items") == second.get("items")
    assert first.get("errors") == second.get("errors")
    status = status_of(straight[0])
    assert served.metric("http_request_duration_seconds_count", code=str(status), **LABELS) == 2


def test_a_straight_request_has_the_log_line_of_the_long_way(serve: Callable[..., Served]) -> None:
    served = serve(log_level="info", log_format="json")
    client = served.raw()
    for path in (PATH, PATH + "?long"):
        client.sendall(post(ask("a", user_id="u"), path))
        read_reply(client)
    client.sendall(post(b"{"))
    read_reply(client)
    until(lambda: served.log.getvalue().count(b'"event":"request"') == 3)

    straight, long, refused = [
        line for line in map(json.loads, served.log.getvalue().splitlines()) if line["event"] == "request"
    ]
    assert straight.keys() == long.keys()
    assert straight["user"] == long["user"] != "u"
    assert (straight["route"], straight["method"], straight["status"]) == (PATH, "POST", 200)
    assert (refused["status"], refused["code"]) == (400, "malformed_json")


def test_the_callers_request_id_is_kept_where_it_is_one(serve: Callable[..., Served]) -> None:
    client = serve().raw()
    for given, kept in (("mine-1", True), ("not mine", False)):
        client.sendall(post(ask("a"), PATH, b"X-Request-Id: %s" % given.encode()))
        _, headers, _ = read_reply(client)
        assert (headers["x-request-id"] == given) is kept


def test_a_budget_in_the_header_counts(serve: Callable[..., Served]) -> None:
    client = serve().raw()
    client.sendall(post(ask("a"), PATH, b"X-Request-Timeout-Ms: 777"))
    assert json.loads(read_reply(client)[2])["budget_ms"]["granted"] == 777
    client.sendall(post(ask("a"), PATH, b"X-Request-Timeout-Ms: soon"))
    status, _, body = read_reply(client)
    assert (status_of(status), json.loads(body)["code"]) == (400, "bad_header")


def test_a_body_may_come_in_pieces(serve: Callable[..., Served]) -> None:
    served = serve()
    client = served.raw()
    whole = post(ask("a", "b"))
    head = whole.index(b"{")
    for piece in (whole[:head], whole[head : head + 5]):
        client.sendall(piece)
        until(lambda: served.metric("inflight") == 1)
    client.sendall(whole[head + 5 :])

    assert status_of(read_reply(client)[0]) == 200


def test_a_chunked_body_is_read(serve: Callable[..., Served]) -> None:
    client, body = serve().raw(), ask("a", "b")
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:]))
    client.sendall(
        b"POST /v1/recommend HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n%s0\r\n\r\n" % chunks
    )

    assert status_of(read_reply(client)[0]) == 200


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_is_refused_and_the_connection_goes_on(
    serve: Callable[..., Served],
    declared: bool,
) -> None:
    served = serve(max_body_bytes=1_024)
    client = served.raw()
    if declared:
        client.sendall(post(b" " * 2_000))
    else:
        client.sendall(
            b"POST /v1/recommend HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"3e8\r\n%s\r\n" % (b" " * 1_000) * 2
            + b"0\r\n\r\n"
        )
    status, _, body = read_reply(client)
    assert (status_of(status), json.loads(body)["code"]) == (413, "body_too_large")
    client.sendall(post(ask("a")))
    assert status_of(read_reply(client)[0]) == 200
    assert served.metric("http_request_duration_seconds_count", code="413", **LABELS) == 1
    until(lambda: served.metric("inflight") == 0)


def test_pipelined_questions_are_answered_in_order(
    serve: Callable[..., Served],
    gate: HeldRuns,
) -> None:
    client = serve().raw()
    first = post(ask("a", count=1), PATH, b"X-Request-Timeout-Ms: 60000")
    client.sendall(first + post(ask("a", count=2)) + post(ask("a", count=3)))
    until(lambda: gate.rows == [1])  # the others wait for their turn
    gate.open()

    assert [len(json.loads(read_reply(client)[2])["items"]) for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize(
    "old", [b"HTTP/1.1\r\nConnection: close\r\n", b"HTTP/1.0\r\n"], ids=["asked to close", "HTTP/1.0"]
)
def test_a_connection_that_is_to_close_is_closed_after_the_reply(
    serve: Callable[..., Served],
    old: bytes,
) -> None:
    client = serve().raw()
    client.sendall(post(ask("a")).replace(b"HTTP/1.1\r\n", old, 1))
    reply = read_all(client)

    assert status_of(reply) == 200
    assert b"\r\nconnection: close\r\n" in reply


def test_who_waits_for_a_go_ahead_gets_it(serve: Callable[..., Served]) -> None:
    client, whole = serve().raw(), post(ask("a"), PATH, b"Expect: 100-continue")
    at = whole.index(b"{")
    client.sendall(whole[:at])
    assert client.recv(len(b"HTTP/1.1 100 Continue\r\n\r\n")) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(whole[at:])

    assert status_of(read_reply(client)[0]) == 200


def test_a_caller_that_goes_before_its_body_has_come_is_counted(serve: Callable[..., Served]) -> None:
    served = serve()
    client = served.raw()
    client.sendall(post(ask("a"))[:-5])
    until(lambda: served.metric("inflight") == 1)
    client.close()
    until(lambda: served.metric("inflight") == 0)

    assert served.metric("http_request_duration_seconds_count", code="499", **LABELS) == 1
    until(lambda: len(served.server.server_state.tasks) == 0)


def test_what_is_not_finished_at_the_end_of_a_stop_hears_so(
    serve: Callable[..., Served],
    gate: HeldRuns,
) -> None:
    served = serve(drain_timeout_s=1)
    waiting, half = served.raw(), served.raw()
    waiting.sendall(post(ask("a"), PATH, b"X-Request-Timeout-Ms: 60000"))
    until(lambda: gate.rows == [1])
    half.sendall(post(ask("a"))[:-5])
    until(lambda: served.metric("inflight") == 2)
    served.server.stop()

    for client in (waiting, half):
        reply = read_all(client)
        assert (status_of(reply), b'"code":"draining"' in reply) == (503, True)
        assert b"\r\nconnection: close\r\n" in reply
    gate.open()


def test_a_connection_that_has_been_idle_for_long_is_closed(serve: Callable[..., Served]) -> None:
    client = serve(keep_alive_s=1).raw()  # the shortest there is
    client.sendall(post(ask("a")))
    read_reply(client)
    client.sendall(post(ask("a")))
    read_reply(client)

    assert read_all(client) == b""


def test_an_unforeseen_error_is_answered_as_a_problem_and_logged(
    serve: Callable[..., Served],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(answer: object) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr("service.api.recommend.encode", fails)
    served = serve()
    client = served.raw()
    client.sendall(post(ask("a")))
    status, headers, body = read_reply(client)

    problem = json.loads(body)
    assert (status_of(status), problem["code"]) == (500, "internal")
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-request-id"] == problem["request_id"]
    assert b"ZeroDivisionError" in served.log.getvalue()
    client.sendall(post(b"{"))
    assert status_of(read_reply(client)[0]) == 400
