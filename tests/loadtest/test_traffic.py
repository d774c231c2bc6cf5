from __future__ import annotations

from itertools import islice

import orjson

from loadtest.traffic import Call, Traffic, interleave
from loadtest.workload import Session

VISIT = Session("s1", "u1", ("a", "b"))


def shapes(calls: list[Call]) -> list[tuple[str, object]]:
    return [(call.path, orjson.loads(call.body)) for call in calls]


def test_a_stored_walk_posts_each_look_and_asks_by_id() -> None:
    calls = list(Traffic("stored", "home", 5, "click").calls(VISIT))
    owner = {"session_id": "s1", "user_id": "u1"}

    def event(number: int, item_id: str) -> dict[str, object]:
        return {"events": [{"event_id": f"s1-{number}", "type": "click", "item_id": item_id, **owner}]}

    ask = {"count": 5, "scenario": "home", **owner}
    assert shapes(calls) == [
        ("/v1/events", event(0, "a")),
        ("/v1/recommend", ask),
        ("/v1/events", event(1, "b")),
        ("/v1/recommend", ask),
    ]
    assert [call.events for call in calls] == [(("u1", "s1-0"),), (), (("u1", "s1-1"),), ()]


def test_a_stored_walk_starts_with_the_past_in_one_call() -> None:
    calls = list(Traffic().calls(Session("s", "u", ("c",), past=("a", "b"))))
    posted = [event["item_id"] for event in orjson.loads(calls[0].body)["events"]]
    ids = [event_id for call in calls for _, event_id in call.events]
    assert posted == ["a", "b"]
    assert ids == ["s-0", "s-1", "s-2"]


def test_a_walk_in_the_request_grows_the_history_and_stores_nothing() -> None:
    calls = list(Traffic("request").calls(Session("s", None, ("b", "c"), past=("a",))))
    assert shapes(calls) == [
        ("/v1/recommend", {"count": 10, "history": [{"item_id": "a"}, {"item_id": "b"}]}),
        ("/v1/recommend", {"count": 10, "history": [{"item_id": "a"}, {"item_id": "b"}, {"item_id": "c"}]}),
    ]


def test_a_history_in_the_request_is_the_newest_500() -> None:
    past = tuple(str(n) for n in range(600))
    (call,) = Traffic("request").calls(Session("s", None, ("x",), past=past))
    sent = [event["item_id"] for event in orjson.loads(call.body)["history"]]
    assert len(sent) == 500
    assert (sent[0], sent[-1]) == ("101", "x")


def test_an_anonymous_walk_names_no_user() -> None:
    calls = list(Traffic().calls(Session("s", None, ("a",))))
    assert all("user_id" not in call.body.decode() for call in calls)


def test_sessions_run_side_by_side_and_each_keeps_its_order() -> None:
    endless = (Session(f"s{n}", None, ("a", "b", "c")) for n in range(10_000))
    calls = list(islice(interleave(Traffic(), endless, n_active=3, seed=1), 60))
    by_session: dict[str, list[str]] = {}
    for call in calls:
        document = orjson.loads(call.body)
        events = document.get("events")
        session_id = events[0]["session_id"] if events else document["session_id"]
        by_session.setdefault(session_id, []).append(events[0]["event_id"] if events else "ask")
    assert all(
        asked == [f"{name}-0", "ask", f"{name}-1", "ask", f"{name}-2", "ask"][: len(asked)]
        for name, asked in by_session.items()
    )
    assert len(by_session) > 3
    firsts = [orjson.loads(call.body) for call in calls[:6]]
    assert len({str(document.get("session_id") or document["events"][0]["session_id"]) for document in firsts}) > 1
