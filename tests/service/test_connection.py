"""What a real socket does to a request: callers that go, bodies that trickle, more than the loop can read."""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from napkin import ITEMS, ManualClock
from sockets import LIMIT_S, HeldRuns, Served, ask, holding, needs_arrivals, post, serving, status_of, until

from service.api.crowd import Crowd
from service.registry import Registry
from service.served_model import ServedModel


@pytest.fixture
def serve(registry: Registry) -> Iterator[Callable[..., Served]]:
    yield from serving(registry)


@pytest.fixture
def gate(models: dict[str, ServedModel], monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldRuns]:
    yield from holding(models, monkeypatch)


def test_a_caller_that_goes_away_leaves_the_queue(serve: Callable[..., Served], gate: HeldRuns) -> None:
    served = serve()
    first, second = served.raw(), served.raw()
    first.sendall(post(ask("a")))
    until(lambda: gate.rows == [1])  # the engine is busy
    second.sendall(post(ask("b")))
    until(lambda: served.service.engine.n_waiting == 1)

    second.close()
    until(lambda: served.metric("inflight") == 1)  # one has been given up, one is in the run
    gate.open()

    assert status_of(first.recv(4096)) == 200
    until(lambda: served.metric("inflight") == 0)
    assert served.metric("engine_batch_rows_sum") == 1
    labels = {"route": "/v1/recommend", "method": "POST"}
    assert served.metric("http_request_duration_seconds_count", code="499", **labels) == 1


def test_a_body_that_does_not_come_is_answered_408_and_the_connection_closed(serve: Callable[..., Served]) -> None:
    served = serve(receive_timeout_s=0.05)
    client = served.raw()
    client.sendall(post(ask("a"))[:-5])

    answer = b""
    while chunk := client.recv(4096):
        answer += chunk

    assert status_of(answer) == 408
    assert b'"code":"receive_timeout"' in answer
    until(lambda: served.metric("inflight") == 0)


def test_headers_that_do_not_come_are_answered_408_and_the_connection_closed(serve: Callable[..., Served]) -> None:
    client = serve(receive_timeout_s=0.05).raw()
    client.sendall(b"POST /v1/recommend HTTP/1.1\r\nHost:")

    answer = b""
    while chunk := client.recv(4096):
        answer += chunk

    assert status_of(answer) == 408


def test_a_stream_of_lines_may_take_its_time(serve: Callable[..., Served]) -> None:
    served = serve(receive_timeout_s=0.02)
    client = served.raw()
    client.sendall(
        b"POST /v1/recommend/batch HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-ndjson\r\n"
        b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    line = ask("a") + b"\n"
    answer = b""
    for _ in range(3):
        client.sendall(b"%x\r\n%s\r\n" % (len(line), line))
        count = answer.count(b'"status":200')
        while answer.count(b'"status":200') == count:
            answer += client.recv(4096)
        time.sleep(0.03)  # longer than a whole request may take
    client.sendall(b"0\r\n\r\n")
    while chunk := client.recv(4096):
        answer += chunk

    assert status_of(answer) == 200
    assert answer.count(b'"status":200') == 3


@needs_arrivals
def test_a_budget_counts_from_when_the_request_came_and_not_from_when_it_was_read(serve: Callable[..., Served]) -> None:
    served = serve()
    client = served.raw()
    client.sendall(post(ask("a")))
    client.recv(65_536)
    busy, may_go_on = threading.Event(), threading.Event()

    def hold() -> None:
        busy.set()
        may_go_on.wait(LIMIT_S)

    loop = served.service.engine._loop
    loop.call_soon_threadsafe(hold)
    busy.wait(LIMIT_S)
    client.sendall(post(ask("a")))
    time.sleep(0.1)  # so long it lies in the kernel; the system tells that to within some milliseconds
    may_go_on.set()

    reply = json.loads(client.recv(65_536).partition(b"\r\n\r\n")[2])
    assert reply["timing_ms"]["total"] >= 80
    assert reply["budget_ms"]["left"] <= 60_000 - 80


def test_a_crowded_loop_refuses_questions_and_nothing_else(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, crowded = serve(), [True]
    room = Crowd.room
    monkeypatch.setattr(Crowd, "room", lambda crowd: "none" if crowded[0] else room(crowd))
    client = served.connect()

    def call(method: str, path: str, body: bytes | None = None) -> http.client.HTTPResponse:
        client.request(method, path, body)
        return client.getresponse()

    refused = call("POST", "/v1/recommend", ask("a"))
    problem = json.loads(refused.read())
    assert (refused.status, refused.headers["Retry-After"], problem["code"]) == (503, "1", "overloaded")
    assert refused.headers["X-Request-Id"] == problem["request_id"]
    events = call("POST", "/v1/events", json.dumps({"events": [{"item_id": "a", "type": "view", "user_id": "u"}]}))
    assert (events.status, events.read() != b"") == (202, True)
    alive = call("GET", "/livez")
    assert (alive.status, alive.read() != b"") == (200, True)
    assert served.metric("shed_total", reason="loop_busy") == 1

    crowded[0] = False
    answered = call("POST", "/v1/recommend", ask("a"))  # on the same connection
    assert (answered.status, json.loads(answered.read())["served"]["tier"]) == (200, "model")


def test_a_full_loop_refuses_questions_that_are_all_there_before_they_are_parsed(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    monkeypatch.setattr(Crowd, "is_full", True)
    client, body = served.raw(), ask("a")
    head = b"POST /v1/recommend HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % len(body)

    def reply() -> tuple[int, dict[str, Any]]:
        answer = b""
        while not answer.endswith(b"}"):
            answer += client.recv(4096)
        return status_of(answer), json.loads(answer.partition(b"\r\n\r\n")[2])

    client.sendall(head + body)
    first = reply()
    client.sendall(head + body[:5])  # this one has to be parsed
    client.sendall(body[5:])
    second = reply()
    for status, problem in (first, second):
        assert (status, problem["code"]) == (503, "overloaded")
    assert first[1]["request_id"] != second[1]["request_id"]
    assert served.metric("shed_total", reason="loop_busy") == 2
    assert served.metric("inflight") == 0

    monkeypatch.setattr(Crowd, "is_full", False)
    client.sendall(head + body)
    assert reply()[0] == 200  # on the same connection


def test_refused_questions_behind_each_other_are_answered_one_by_one_and_in_order(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    rooms = iter(["none", "none", "all"])
    monkeypatch.setattr(Crowd, "room", lambda crowd: next(rooms))
    client = served.raw()
    client.sendall(post(ask("a")) * 3)

    answer = b""
    while answer.count(b"HTTP/1.1 ") < 3 or not answer.endswith(b"}"):
        answer += client.recv(65_536)
    assert [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]] == [503, 503, 200]


def test_who_goes_away_before_the_refusal_is_not_written_to_and_leaves_no_timer(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, held = serve(), list[Any]()
    monkeypatch.setattr(Crowd, "room", lambda crowd: "none")
    monkeypatch.setattr(Crowd, "refuse", lambda crowd, say: held.append(say))
    client = served.raw()
    client.sendall(post(ask("a")))
    until(lambda: bool(held))
    connection, done = held[0].__self__, threading.Event()
    client.close()
    until(lambda: connection not in served.server.server_state.connections)

    failures: list[Exception] = []

    def say() -> None:
        try:
            held[0]()
        except Exception as error:  # told below; here it would keep others from hearing theirs
            failures.append(error)
        done.set()

    served.service.engine._loop.call_soon_threadsafe(say)
    assert done.wait(LIMIT_S)
    assert failures == []
    assert connection._idle_watch is None


def test_a_crowded_loop_answers_from_memory_while_there_is_room_for_that(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served, crowded = serve(), [False]
    room = Crowd.room
    monkeypatch.setattr(Crowd, "room", lambda crowd: "memory" if crowded[0] else room(crowd))
    client = served.connect()

    def call(path: str, **body: object) -> tuple[int, dict[str, Any]]:
        client.request("POST", path, json.dumps(body))
        response = client.getresponse()
        return response.status, json.loads(response.read())

    history = [{"item_id": "a"}]
    _, before = call("/v1/recommend", user_id="u", history=history)
    crowded[0] = True
    runs = served.metric("engine_batch_rows_count")

    status, known = call("/v1/recommend", user_id="u")
    assert (status, known["served"]["tier"], known["served"]["reasons"]) == (200, "cache", ["overloaded"])
    assert known["items"] == before["items"]
    status, new = call("/v1/recommend", user_id="v", history=history)
    assert (status, new["served"]["tier"], new["served"]["degraded"]) == (200, "popular", True)
    assert "a" not in [item["item_id"] for item in new["items"]]
    status, similar = call("/v1/similar", item_ids=["a"])
    assert (status, similar["served"]["tier"], similar["served"]["reasons"]) == (200, "popular", ["overloaded"])
    status, refused = call("/v1/recommend", user_id="u", degrade="never")
    assert (status, refused["code"]) == (503, "overloaded")
    status, refused = call("/v1/recommend/batch", requests=[{"user_id": "u"}])
    assert (status, refused["code"]) == (503, "overloaded")

    assert served.metric("engine_batch_rows_count") == runs
    assert served.metric("shed_total", reason="loop_busy") == 5


class Turns:
    """An event loop by hand: `call_soon` notes, `turn` runs what was noted."""

    def __init__(self) -> None:
        self.noted: list[tuple[Callable[..., None], tuple[object, ...]]] = []

    def call_soon(self, callback: Callable[..., None], *arguments: object) -> None:
        self.noted.append((callback, arguments))

    def turn(self) -> None:
        noted, self.noted = self.noted, []
        for callback, arguments in noted:
            callback(*arguments)


def test_only_turns_that_are_long_again_and_again_harm_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, loop = ManualClock(), Turns()
    monkeypatch.setattr(
        "service.api.crowd.time", type("Time", (), {"monotonic": lambda: clock(), "thread_time": clock})
    )
    crowd = Crowd(loop, turn_s=0.01)

    def turn(n_requests: int, cost_s: float = 0.001) -> tuple[int, int]:
        rooms = [crowd.room() for _ in range(n_requests)]
        loop.turn()
        clock.advance((n_requests - rooms.count("none") * 7 / 8) * cost_s)  # refusing costs an eighth
        loop.turn()
        return rooms.count("all"), rooms.count("memory")

    assert [turn(40) for _ in range(4)] == [(40, 0)] * 4  # 40 ms each: now it is known to be behind
    late = [turn(40) for _ in range(60)][-1]
    assert late == (late[0], 0)
    assert late[0] in (10, 11)  # as many as fit into 10 ms
    late = [turn(12) for _ in range(60)][-1]
    assert late[0] in (10, 11)
    assert late[1] == 12 - late[0]  # an excess of a fifth is answered from memory
    assert [turn(2) for _ in range(10)] == [(2, 0)] * 10  # quiet again
    assert turn(40) == (40, 0)  # and a single burst harms nobody


def test_one_turn_takes_in_what_six_can_do_and_not_more() -> None:
    crowd = Crowd(Turns(), turn_s=0.064)  # by the first estimate 64 requests a turn
    assert [crowd.room() for _ in range(400)] == ["all"] * 384 + ["none"] * 16


def test_where_many_are_refused_most_hear_of_it_when_all_have_been_read() -> None:
    loop, heard = Turns(), list[int]()
    crowd = Crowd(loop)
    for number in range(130):
        crowd.note_refusal()
        crowd.refuse(lambda number=number: heard.append(number))
    assert heard == list(range(128))
    loop.turn()
    assert heard == list(range(130))
    loop.turn()
    assert heard == list(range(130))


def test_the_clock_of_a_turn_is_one_clock_from_its_begin_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clocks change between turns, and a turn begins before the one before it ends."""
    now, loop = ManualClock(), Turns()
    monkeypatch.setattr(
        "service.api.crowd.time",
        type("Time", (), {"monotonic": lambda: now() + 1e6, "thread_time": lambda: now()}),
    )
    crowd = Crowd(loop, turn_s=0.01)

    rooms: list[str] = []
    for _ in range(60):
        rooms = [crowd.room() for _ in range(40)]
        now.advance((40 - rooms.count("none") * 7 / 8) * 0.001)
        loop.turn()  # the turn before ends here: its time counts what has been read since, so twice as much

    assert rooms.count("all") in (5, 6)


def test_no_reply_reaches_another_user_under_random_aborts(serve: Callable[..., Served]) -> None:
    """Each user's only event is an item nobody else has; seen items are shown, so the reply tells whose it is."""
    served = serve(max_batch=4)
    users = ITEMS[:6]
    client = served.connect()
    for user in users:
        event = {"item_id": user, "type": "view", "user_id": f"user-{user}"}
        client.request("POST", "/v1/events", json.dumps({"events": [event]}))
        assert client.getresponse().read()
    first = {}
    for user in users:
        client.request("POST", "/v1/recommend", json.dumps({"user_id": f"user-{user}", "scenario": "home", "count": 6}))
        first[user] = [item["item_id"] for item in json.loads(client.getresponse().read())["items"]]
    assert all(user not in items for user, items in first.items())

    def visit(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(300):
            user = rng.choice(users)
            body = json.dumps({"user_id": f"user-{user}", "scenario": "home", "count": 6}).encode()
            with socket.create_connection(served.listener.getsockname()[:2], timeout=LIMIT_S) as one:
                one.sendall(post(body))
                if rng.random() < 0.7:
                    continue  # hangs up without an answer
                one.sendall(post(body))  # and another one behind it
                answer = b""
                while answer.count(b"budget_ms") < 2:
                    answer += one.recv(65_536)
            for document in answer.split(b"\r\n\r\n")[1:]:
                items = json.loads(document[: document.rindex(b"}") + 1].split(b"HTTP/1.1")[0])["items"]
                assert [item["item_id"] for item in items] == first[user]
                n_answers.append(1)

    n_answers: list[int] = []
    failures: list[BaseException] = []

    def guarded(seed: int) -> None:
        try:
            visit(seed)
        except BaseException as error:  # told below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    assert failures == []
    assert len(n_answers) > 800
    until(lambda: served.metric("inflight") == 0)
    until(lambda: len(served.server.server_state.tasks) == 0)
    until(lambda: len(served.server.server_state.connections) <= 1)
