"""`/v1/recommend` and `/v1/similar` through the real application. The catalogue is worked out in conftest."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from napkin import Running, Start, ids

from service.api.schemas import RecommendReply
from service.registry import Registry
from service.served_model import ServedModel


def past(*item_ids: str) -> list[dict[str, str]]:
    return [{"item_id": item_id} for item_id in item_ids]


@pytest.fixture
def broken_model(models: dict[str, ServedModel], monkeypatch: pytest.MonkeyPatch) -> ServedModel:
    """The model of `home`, failing whenever it is asked."""

    def fail(*_args: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(models["napkin"], "_topk", type("Broken", (), {"search": fail})())
    monkeypatch.setattr(models["napkin"], "_similarity", type("Broken", (), {"search": fail})())
    return models["napkin"]


class SlowTopK:
    """Answers once the gate is open; `asked` is set when somebody waits."""

    def __init__(self, topk: Any) -> None:
        self.topk = topk
        self.gate, self.asked = threading.Event(), threading.Event()

    def search(self, *args: Any) -> Any:
        if threading.current_thread().name == "engine":  # not while it is being loaded
            self.asked.set()
            assert self.gate.wait(10)
        return self.topk.search(*args)


@pytest.fixture
def slow_model(models: dict[str, ServedModel], monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowTopK]:
    """The model of `home`, answering only once the gate is open."""
    slow = SlowTopK(models["napkin"]._topk)
    monkeypatch.setattr(models["napkin"], "_topk", slow)
    yield slow
    slow.gate.set()


# --- the first tier -------------------------------------------------------------------------------------------------


async def test_a_history_in_the_request_is_answered_by_the_model_without_the_store(running: Running) -> None:
    reply = await running.recommend(history=past("a"), user_id="u1")

    RecommendReply.model_validate(reply)
    assert ids(reply) == ["b", "c", "d"]
    assert [item["score"] for item in reply["items"]] == [12, 8, 4]
    assert [item["rank"] for item in reply["items"]] == [1, 2, 3]
    model = running.service.recommender.registry.scenario("home").model
    assert reply["served"] == {
        "tier": "model",
        "degraded": False,
        "reasons": [],
        "model": {"name": "napkin", "version": model.version},
        "scenario": "home",
        "state": "request",
        "history_used": 1,
        "unknown_items": 0,
        "filtered_out": 1,
        "top_k_recall": None,
    }
    assert reply["budget_ms"] == {"granted": 100, "left": 100}
    assert set(reply["timing_ms"]) == {"queue", "infer", "total"}
    assert running.store.reads == 0


async def test_stored_events_of_a_user_and_a_session_are_the_history(running: Running) -> None:
    await running.look("a", user_id="u1")
    await running.look("e", session_id="s1")

    assert ids(await running.recommend(user_id="u1")) == ["b", "c", "d"]
    assert ids(await running.recommend(session_id="s1")) == ["d", "c", "b"]
    both = await running.recommend(user_id="u1", session_id="s1")  # the visit is the newer part: e was last
    assert ids(both) == ["d", "c", "b"]
    assert both["served"]["state"] == "memory"
    assert both["served"]["history_used"] == 2
    assert running.store.reads == 3  # one round trip each


async def test_an_acknowledged_event_shows_in_the_next_answer(running: Running) -> None:
    await running.look("a", user_id="u1")
    before = await running.recommend(user_id="u1")
    await running.look(before["items"][0]["item_id"], user_id="u1")

    after = await running.recommend(user_id="u1")

    assert before["items"][0]["item_id"] not in ids(after)


async def test_seen_and_excluded_items_are_left_out_and_counted(running: Running) -> None:
    reply = await running.recommend(history=past("b", "a"), exclude={"item_ids": ["c", "a", "nobody"]})

    assert ids(reply) == ["d", "e", "f"]
    assert reply["served"]["filtered_out"] == 3


@pytest.mark.parametrize(
    ("scenario", "exclude", "expected"),
    [
        ("home", {}, ["b", "c", "d"]),
        ("home", {"seen": False}, ["a", "b", "c"]),
        ("again", {}, ["a", "b", "c"]),
        ("again", {"seen": True}, ["b", "c", "d"]),
    ],
)
async def test_the_request_may_overrule_the_scenario_about_seen_items(
    running: Running, scenario: str, exclude: dict[str, Any], expected: list[str]
) -> None:
    assert ids(await running.recommend(scenario=scenario, history=past("a"), exclude=exclude)) == expected


async def test_unknown_items_are_reported_and_skipped(running: Running) -> None:
    reply = await running.recommend(history=past("nobody", "a", "nothing"))

    assert reply["served"]["unknown_items"] == 2
    assert reply["served"]["history_used"] == 1
    assert ids(reply) == ["b", "c", "d"]


async def test_only_as_much_history_as_the_model_reads_is_used_but_all_of_it_was_seen(running: Running) -> None:
    reply = await running.recommend(history=past("b", *["a"] * 60))  # the model reads 50

    assert reply["served"]["history_used"] == 50
    assert ids(reply) == ["c", "d", "e"]


async def test_a_request_may_choose_another_loaded_model(running: Running) -> None:
    reply = await running.recommend(history=past("a"), model={"name": "counts"})

    assert reply["served"]["model"]["name"] == "counts"
    assert ids(reply) == ["c", "d", "f"]


async def test_with_nothing_left_to_recommend_the_list_is_empty(running: Running) -> None:
    reply = await running.recommend(history=past(*"abcdef"))

    assert ids(reply) == []
    assert running.metrics()['afterglow_empty_responses_total{scenario="home"}'] == 1


async def test_headers_carry_the_tier_the_stages_and_the_callers_request_id(running: Running) -> None:
    response = await running.post("/v1/recommend", {"history": past("a")}, **{"X-Request-Id": "req-1"})

    assert response.headers["X-Served-Tier"] == "model"
    assert response.headers["X-Request-Id"] == "req-1"
    assert [part.partition(";")[0] for part in response.headers["Server-Timing"].split(", ")] == [
        "queue",
        "infer",
        "total",
    ]


async def test_a_request_id_that_is_no_id_is_replaced(running: Running) -> None:
    response = await running.post("/v1/recommend", {"history": past("a")}, **{"X-Request-Id": "a b\tc"})

    assert len(response.headers["X-Request-Id"]) == 32


# --- cold users -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [{}, {"history": []}, {"user_id": "new"}, {"session_id": "new"}])
async def test_without_a_history_popular_items_answer_and_that_is_no_degradation(
    running: Running, ask: dict[str, Any]
) -> None:
    reply = await running.recommend(**ask, degrade="never")

    assert ids(reply) == ["c", "a", "d"]
    assert [item["score"] for item in reply["items"]] == [9, 5, 5]
    served = reply["served"]
    assert (served["tier"], served["degraded"], served["reasons"]) == ("popular", False, ["empty_history"])
    assert served["history_used"] == 0


async def test_a_history_of_unknown_items_is_empty(running: Running) -> None:
    served = (await running.recommend(history=past("nobody")))["served"]

    assert (served["tier"], served["reasons"], served["unknown_items"]) == ("popular", ["empty_history"], 1)


async def test_a_model_that_needs_no_history_answers_everybody(running: Running) -> None:
    served = (await running.recommend(scenario="best"))["served"]

    assert (served["tier"], served["degraded"], served["reasons"]) == ("model", False, [])


async def test_without_training_counts_a_cold_user_gets_the_catalogues_order(running: Running) -> None:
    reply = await running.recommend(scenario="plain", exclude={"item_ids": ["b"]})

    assert ids(reply) == ["a", "c", "d"]
    assert [item["score"] for item in reply["items"]] == [None, None, None]
    assert (reply["served"]["tier"], reply["served"]["degraded"]) == ("static", False)


# --- the ladder -----------------------------------------------------------------------------------------------------


async def test_with_the_store_away_the_last_good_list_answers(running: Running) -> None:
    await running.look("a", user_id="u1")
    good = await running.recommend(user_id="u1")
    running.store.away = True

    reply = await running.recommend(user_id="u1", exclude={"item_ids": ["b"]})

    assert ids(good) == ["b", "c", "d"]
    assert ids(reply) == ["c", "d", "e"]  # without what was seen then, and without what is excluded now
    served = reply["served"]
    assert (served["tier"], served["degraded"], served["reasons"]) == ("cache", True, ["state_unavailable"])
    assert (served["state"], served["history_used"]) == ("none", 0)


async def test_with_the_store_away_a_stranger_gets_popular_items(running: Running) -> None:
    running.store.away = True

    served = (await running.recommend(user_id="u9"))["served"]

    assert (served["tier"], served["degraded"], served["reasons"]) == ("popular", True, ["state_unavailable"])


async def test_with_the_store_away_a_history_in_the_request_keeps_the_first_tier(running: Running) -> None:
    running.store.away = True

    served = (await running.recommend(user_id="u1", history=past("a")))["served"]

    assert (served["tier"], served["degraded"]) == ("model", False)


async def test_when_the_store_is_back_so_is_the_model(running: Running) -> None:
    await running.look("a", user_id="u1")
    running.store.away = True
    await running.recommend(user_id="u1")
    running.store.away = False

    served = (await running.recommend(user_id="u1"))["served"]

    assert (served["tier"], served["degraded"]) == ("model", False)


async def test_popular_items_leave_out_what_was_seen_before_the_store_went_away(running: Running) -> None:
    await running.look("c", "a", user_id="u1")
    await running.recommend(user_id="u1")
    running.store.away = True

    # b, d, e, f were left in the last list; three of them excluded leave too little of it.
    reply = await running.recommend(user_id="u1", exclude={"item_ids": ["b", "e", "f"]})

    assert reply["served"]["tier"] == "popular"
    assert ids(reply) == ["d"]


async def test_lists_of_one_user_never_reach_another(running: Running) -> None:
    await running.look("a", user_id="u1")
    await running.recommend(user_id="u1")
    running.store.away = True

    for other in ({"user_id": "u2"}, {"session_id": "u1"}):
        assert (await running.recommend(**other))["served"]["tier"] == "popular"


@pytest.mark.parametrize("budget", ["1", "4"])
async def test_a_budget_below_five_milliseconds_gets_a_lower_tier_at_once(running: Running, budget: str) -> None:
    await running.look("a", user_id="u1")

    response = await running.post("/v1/recommend", {"user_id": "u1"}, **{"X-Request-Timeout-Ms": budget})

    served = response.json()["served"]
    assert (response.status_code, served["tier"]) == (200, "popular")
    assert (served["degraded"], served["reasons"]) == (True, ["deadline_exceeded"])
    assert response.json()["budget_ms"] == {"granted": int(budget), "left": 0}
    assert running.store.reads == 0


async def test_a_budget_that_ends_while_the_state_is_read_still_knows_what_was_seen(running: Running) -> None:
    await running.look("c", user_id="u1")
    running.store.before_read = lambda: running.clock.advance(0.2)

    reply = await running.recommend(user_id="u1")

    assert ids(reply) == ["a", "d", "f"]
    served = reply["served"]
    assert (served["tier"], served["degraded"], served["reasons"]) == ("popular", True, ["deadline_exceeded"])
    assert reply["timing_ms"]["state"] == 200


async def test_a_model_that_takes_too_long_is_not_waited_for(running: Running, slow_model: SlowTopK) -> None:
    asyncio.get_running_loop().call_later(0.02, running.clock.advance, 1)
    response = await running.post("/v1/recommend", {"history": past("c")}, **{"X-Request-Timeout-Ms": "20"})

    served = response.json()["served"]
    assert (served["tier"], served["degraded"], served["reasons"]) == ("popular", True, ["deadline_exceeded"])
    assert ids(response.json()) == ["a", "d", "f"]


async def test_a_full_engine_answers_at_once_from_a_lower_tier(start: Start, slow_model: SlowTopK) -> None:
    async with start(max_waiting=1, max_batch=1, deadline_ms=60_000) as running:
        waiting = [asyncio.create_task(running.recommend(history=past("a")))]
        await asyncio.to_thread(slow_model.asked.wait, 10)
        waiting.append(asyncio.create_task(running.recommend(history=past("a"))))
        while running.service.engine.n_waiting < 1:  # noqa: ASYNC110  the queue tells nobody when it grows
            await asyncio.sleep(0)

        served = (await running.recommend(history=past("a")))["served"]
        refused = await running.post("/v1/recommend", {"history": past("a"), "degrade": "never"})

        assert (served["tier"], served["degraded"], served["reasons"]) == ("popular", True, ["overloaded"])
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert refused.headers["Retry-After"] == "1"
        slow_model.gate.set()
        assert [reply["served"]["tier"] for reply in await asyncio.gather(*waiting)] == ["model", "model"]


async def test_a_model_that_fails_is_replaced_by_the_next_tier_and_logged(
    running: Running, broken_model: ServedModel
) -> None:
    served = (await running.recommend(history=past("a"), user_id="u-secret"))["served"]

    assert (served["tier"], served["degraded"], served["reasons"]) == ("popular", True, ["model_failed"])
    (line,) = [line for line in running.log_lines() if line["event"] == "model_failed"]
    assert (line["level"], line["error"]) == ("error", "ZeroDivisionError")
    assert running.metrics()['afterglow_degraded_total{reason="model_failed"}'] == 1


async def test_a_model_that_says_nothing_of_a_history_has_failed(
    running: Running, models: dict[str, ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is what the top-k makes of queries that are not numbers."""
    nothing = (np.empty(0, np.int64), np.empty(0, np.float32))
    monkeypatch.setattr(models["napkin"], "_topk", type("Mute", (), {"search": lambda *_args: [nothing]})())

    reply = await running.recommend(history=past("c"))

    assert ids(reply) == ["a", "d", "f"]
    assert (reply["served"]["tier"], reply["served"]["reasons"]) == ("popular", ["model_failed"])


@pytest.mark.parametrize(
    ("away", "budget", "status", "code"),
    [(True, "100", 503, "state_unavailable"), (False, "4", 504, "deadline_exceeded")],
)
async def test_a_request_that_forbids_lower_tiers_is_told_why_not(
    running: Running, away: bool, budget: str, status: int, code: str
) -> None:
    running.store.away = away

    response = await running.post(
        "/v1/recommend", {"user_id": "u1", "degrade": "never"}, **{"X-Request-Timeout-Ms": budget}
    )

    assert (response.status_code, response.json()["code"]) == (status, code)
    assert ("Retry-After" in response.headers) is (status == 503)


async def test_a_request_keeps_the_model_it_started_with(running: Running, registry: Registry) -> None:
    """While its state is read, the registry behind the service changes."""
    await running.look("a", user_id="u1")
    home = registry.scenario("home")

    def swap() -> None:
        running.service.recommender.registry = Registry([registry.scenario("best")])

    running.store.before_read = swap
    reply = await running.recommend(user_id="u1")

    assert reply["served"]["model"] == {"name": home.model.name, "version": home.model.version}
    assert ids(reply) == ["b", "c", "d"]


# --- similar --------------------------------------------------------------------------------------------------------


async def test_similar_items_come_by_direction(running: Running) -> None:
    response = await running.post("/v1/similar", {"item_ids": ["e"], "count": 2})

    RecommendReply.model_validate(response.json())
    assert ids(response.json()) == ["f", "d"]
    assert response.json()["served"]["tier"] == "model"


async def test_similar_leaves_out_exclusions_and_unknown_seeds(running: Running) -> None:
    body = {"item_ids": ["e", "nobody"], "exclude": {"item_ids": ["f"]}}

    reply = (await running.post("/v1/similar", body)).json()

    assert ids(reply) == ["d", "c", "b"]
    assert reply["served"]["unknown_items"] == 1


async def test_what_is_similar_to_unknown_items_is_what_is_popular(running: Running) -> None:
    reply = (await running.post("/v1/similar", {"item_ids": ["nobody"]})).json()

    assert ids(reply) == ["c", "a", "d"]
    served = reply["served"]
    assert (served["tier"], served["degraded"], served["reasons"]) == ("popular", False, ["unknown_items"])


async def test_similar_steps_down_the_same_ladder(running: Running, broken_model: ServedModel) -> None:
    served = (await running.post("/v1/similar", {"item_ids": ["a"]})).json()["served"]
    refused = await running.post("/v1/similar", {"item_ids": ["a"], "degrade": "never"})

    assert (served["tier"], served["degraded"], served["reasons"]) == ("popular", True, ["model_failed"])
    assert (refused.status_code, refused.json()["code"]) == (500, "model_failed")
