from __future__ import annotations

from typing import Any

import pytest
from napkin import NOW, Running, Start, ids

from service.api.schemas import DeleteReply, EventsReply, ExportReply, MergeReply


def view(item_id: str, **more: Any) -> dict[str, Any]:
    return {"type": "view", "item_id": item_id, **more}


async def post_events(running: Running, *events: dict[str, Any]) -> dict[str, Any]:
    response = await running.post("/v1/events", {"events": events})
    assert response.status_code == 202, response.text
    EventsReply.model_validate(response.json())
    return dict(response.json())


async def exported(running: Running, user_id: str) -> list[dict[str, Any]]:
    response = await running.client.get(f"/v1/users/{user_id}/export")
    assert response.status_code == 200
    ExportReply.model_validate(response.json())
    return list(response.json()["events"])


async def test_stored_events_are_confirmed_and_come_back_in_the_export(running: Running) -> None:
    receipt = await post_events(
        running, view("a", user_id="u1", event_id="e1", session_id="s1"), view("b", user_id="u1", ts=NOW - 60)
    )

    assert receipt == {"accepted": 2, "duplicates": 0, "rejected": [], "unknown_items": 0, "durability": "stored"}
    older, newer = await exported(running, "u1")
    assert newer == {
        "event_id": "e1",
        "type": "view",
        "item_id": "a",
        "ts": NOW,  # by default, the time of arrival
        "user_id": "u1",
        "session_id": "s1",
    }
    assert (older["item_id"], older["ts"]) == ("b", NOW - 60)
    assert older["event_id"]  # made up, since none was given


async def test_the_same_event_id_again_is_a_no_op(running: Running) -> None:
    event = view("a", user_id="u1", event_id="e1")
    await post_events(running, event)

    receipt = await post_events(running, event, view("b", user_id="u1", event_id="e2"))

    assert (receipt["accepted"], receipt["duplicates"]) == (1, 1)
    assert [event["item_id"] for event in await exported(running, "u1")] == ["a", "b"]


async def test_events_of_items_that_no_model_knows_are_stored_and_reported(running: Running) -> None:
    receipt = await post_events(running, view("new-in-shop", user_id="u1"), view("a", user_id="u1"))

    assert (receipt["accepted"], receipt["unknown_items"]) == (2, 1)


@pytest.mark.parametrize(
    ("ts", "code"),
    [
        (NOW - 30 * 86_400, None),
        (NOW - 30 * 86_400 - 1, "ts_too_old"),
        (NOW + 300, None),
        (NOW + 301, "ts_in_future"),
        (NOW * 1000, "ts_in_future"),  # milliseconds
        (-1, "ts_too_old"),
    ],
)
async def test_an_event_from_an_impossible_time_is_rejected_alone(
    running: Running, ts: float, code: str | None
) -> None:
    receipt = await post_events(running, view("a", user_id="u1"), view("b", user_id="u1", ts=ts))

    assert receipt["rejected"] == ([] if code is None else [{"index": 1, "code": code}])
    assert receipt["accepted"] == (2 if code is None else 1)


async def test_when_every_event_is_rejected_nothing_was_written(running: Running) -> None:
    receipt = await post_events(running, view("b", user_id="u1", ts=0))

    assert (receipt["accepted"], receipt["durability"]) == (0, None)


async def test_with_the_store_away_events_queue_and_are_stored_when_it_returns(running: Running) -> None:
    running.store.away = True
    receipt = await post_events(running, view("a", user_id="u1"))
    running.store.away = False
    await running.service.writer.close()  # flushes

    assert (receipt["accepted"], receipt["durability"]) == (1, "queued")
    assert [event["item_id"] for event in await exported(running, "u1")] == ["a"]


async def test_with_store_and_queue_out_of_reach_events_are_refused(start: Start) -> None:
    async with start(max_queued_events=1) as running:
        running.store.away = True
        events = [view("a", user_id="u1"), view("b", user_id="u1")]

        response = await running.post("/v1/events", {"events": events})

        assert (response.status_code, response.json()["code"]) == (503, "state_unavailable")
        assert response.headers["Retry-After"] == "1"


async def test_a_merge_gives_the_visit_to_the_user_once(running: Running) -> None:
    await running.look("a", session_id="s1")
    await running.look("b", user_id="u1")

    first, again = [await running.post("/v1/users/u1/merge", {"from_session_id": "s1"}) for _ in range(2)]

    MergeReply.model_validate(first.json())
    assert (first.json(), again.json()) == ({"moved": 1}, {"moved": 0})
    assert [event["item_id"] for event in await exported(running, "u1")] == ["a", "b"]
    assert (await running.recommend(session_id="s1"))["served"]["reasons"] == ["empty_history"]


async def test_a_merge_of_users_empties_the_source(running: Running) -> None:
    await running.look("a", user_id="guest")

    await running.post("/v1/users/u1/merge", {"from_user_id": "guest"})

    assert await exported(running, "guest") == []
    assert [event["item_id"] for event in await exported(running, "u1")] == ["a"]


async def test_after_a_deletion_nothing_of_the_user_is_left(running: Running) -> None:
    """Neither in the store, nor in the last good lists of the user and of the user's visits."""
    await running.look("a", user_id="u1", session_id="s1")
    for owner in ({"user_id": "u1"}, {"session_id": "s1"}):
        assert (await running.recommend(**owner))["served"]["tier"] == "model"

    response = await running.client.delete("/v1/users/u1")

    DeleteReply.model_validate(response.json())
    assert response.json()["deleted"] > 0
    assert await exported(running, "u1") == []
    assert len(running.service.last_lists) == 0
    running.store.away = True
    for owner in ({"user_id": "u1"}, {"session_id": "s1"}):
        assert (await running.recommend(**owner))["served"]["tier"] == "popular"


async def test_a_deletion_takes_queued_events_along(running: Running) -> None:
    running.store.away = True
    await post_events(running, view("a", user_id="u1"), view("b", user_id="u2"))
    running.store.away = False

    await running.client.delete("/v1/users/u1")
    await running.service.writer.close()

    assert await exported(running, "u1") == []
    assert [event["item_id"] for event in await exported(running, "u2")] == ["b"]


async def test_deleting_a_session_leaves_the_user(running: Running) -> None:
    await running.look("a", user_id="u1", session_id="s1")

    response = await running.client.delete("/v1/sessions/s1")

    assert response.json()["deleted"] > 0
    assert (await running.recommend(session_id="s1"))["served"]["reasons"] == ["empty_history"]
    assert ids(await running.recommend(user_id="u1")) == ["b", "c", "d"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/v1/users/u1", None),
        ("GET", "/v1/users/u1/export", None),
        ("DELETE", "/v1/sessions/s1", None),
        ("POST", "/v1/users/u1/merge", b'{"from_session_id":"s1"}'),
    ],
)
async def test_what_only_the_store_can_do_needs_the_store(
    running: Running, method: str, path: str, body: bytes | None
) -> None:
    running.store.away = True

    response = await running.client.request(method, path, content=body)

    assert (response.status_code, response.json()["code"]) == (503, "state_unavailable")
    assert response.headers["Retry-After"] == "1"
    assert running.metrics()['afterglow_redis_errors_total{kind="admin"}'] == 1


async def test_an_answer_in_the_making_does_not_bring_a_deleted_users_list_back(running: Running) -> None:
    await running.look("a", user_id="u1")
    running.store.before_read = lambda: running.service.last_lists.drop(("user", "u1"))  # as the deletion does

    await running.recommend(user_id="u1")

    assert len(running.service.last_lists) == 0
