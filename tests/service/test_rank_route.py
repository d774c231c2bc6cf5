"""`/v1/rank`, its batch, and scenarios that retrieve and then rank."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napkin import Running, Start
from napkin_ranker import BUILT, TOLD, NapkinRanker, Z, chance, napkin_ranker, of

from service.api.rank import as_document
from service.api.schemas import ModelsReply, RankBatchReply, RankReply, RecommendReply
from service.ask import RankAsk
from service.deadline import Deadline
from service.errors import Overloaded
from service.registry import RankerChoice, Registry, Scenario
from service.served_model import ServedModel


@pytest.fixture
def ranked(tmp_path: Path, models: dict[str, ServedModel]) -> tuple[Registry, NapkinRanker]:
    """Scenarios `up` and `down` retrieve with napkin and rank; `plain` has no ranker."""
    ranker, fake = napkin_ranker(tmp_path)
    napkin = models["napkin"]

    def choice(index: int) -> RankerChoice:
        return RankerChoice(ranker, index, candidates=5, index_map=ranker.index_map(napkin.artefact))

    return Registry(
        [
            Scenario("up", napkin, count=3, deadline_ms=100, seen="exclude", ranker=choice(0)),
            Scenario("down", napkin, count=3, deadline_ms=100, seen="exclude", ranker=choice(1)),
            Scenario("plain", napkin, count=3, deadline_ms=100, seen="exclude"),
        ],
        default="up",
    ), fake


@pytest.fixture
async def ranking(start: Start, ranked: tuple[Registry, NapkinRanker]) -> AsyncIterator[Running]:
    async with start(lambda: ranked[0]) as running:
        await running.service.until_loaded()
        yield running


async def _rank(running: Running, **body: Any) -> dict[str, Any]:
    response = await running.post("/v1/rank", body)
    assert response.status_code == 200, response.text
    RankReply.model_validate_json(response.content)
    return dict(response.json())


async def test_candidates_come_back_in_the_scenarios_order_with_chances(ranking: Running) -> None:
    reply = await _rank(ranking, candidates=["b", "e", "a"])
    assert of(reply) == "eba"
    assert [item["score"] for item in reply["items"]] == pytest.approx([chance(5), chance(2), chance(1)], abs=1e-6)
    assert [item["rank"] for item in reply["items"]] == [1, 2, 3]
    assert of(await _rank(ranking, candidates=["b", "e", "a"], scenario="down")) == "abe"
    served = reply["served"]
    assert (served["tier"], served["degraded"], served["user_z"]) == ("model", False, "predicted")
    assert served["ranker"]["name"] == "napkin-ranker"


async def test_one_candidate_scores_as_it_does_among_others(ranking: Running) -> None:
    among = await _rank(ranking, candidates=["b", "e", "a"])
    alone = await _rank(ranking, candidates=["e"])
    assert alone["items"][0]["score"] == among["items"][0]["score"]


async def test_unknown_candidates_come_last_in_the_order_given(ranking: Running) -> None:
    reply = await _rank(ranking, candidates=["zz", "a", "yy", "c"])
    assert [item["item_id"] for item in reply["items"]] == ["c", "a", "zz", "yy"]
    assert [item["score"] is None for item in reply["items"]] == [False, False, True, True]
    assert reply["served"]["unknown_candidates"] == 2
    nothing_known = await _rank(ranking, candidates=["zz", "yy"])
    assert [item["item_id"] for item in nothing_known["items"]] == ["zz", "yy"]
    assert nothing_known["served"]["tier"] == "model"


async def test_history_comes_from_the_request_or_from_the_store(ranking: Running) -> None:
    told = await _rank(ranking, candidates=["a", "d"], history=[{"item_id": "e"}, {"item_id": "unheard"}])
    assert of(told) == "ad"  # a gets 10 more after e
    assert told["served"]["state"] == "request"
    assert (told["served"]["history_used"], told["served"]["unknown_items"]) == (1, 1)
    await ranking.look("e", user_id="ben")
    stored = await _rank(ranking, candidates=["a", "d"], user_id="ben")
    assert of(stored) == "ad"
    assert stored["served"]["state"] == "memory"


async def test_what_an_llm_told_of_a_user_is_used_until_the_user_is_deleted(ranking: Running) -> None:
    reply = await _rank(ranking, candidates=["a", "b"], user_id=TOLD, history=[])
    assert reply["served"]["user_z"] == "told"
    assert reply["items"][-1]["score"] == pytest.approx(chance(1 + Z))
    assert (await ranking.client.delete(f"/v1/users/{TOLD}")).status_code == 200
    deleted = await _rank(ranking, candidates=["a", "b"], user_id=TOLD, history=[])
    assert deleted["served"]["user_z"] == "predicted"
    assert deleted["items"][-1]["score"] == pytest.approx(chance(1))


async def test_a_deletion_before_the_artefact_was_built_says_nothing(ranking: Running) -> None:
    ranking.wall.now = BUILT - 10
    await ranking.client.delete(f"/v1/users/{TOLD}")
    reply = await _rank(ranking, candidates=["a"], user_id=TOLD, history=[])
    assert reply["served"]["user_z"] == "told"


async def test_with_the_store_away_nothing_told_is_used(ranking: Running) -> None:
    ranking.store.away = True
    reply = await _rank(ranking, candidates=["a", "b"], user_id=TOLD)
    assert reply["served"]["user_z"] == "predicted"
    assert reply["served"]["degraded"]
    assert reply["served"]["reasons"] == ["state_unavailable"]
    assert of(reply) == "ba"  # still ranked, by scenario and items
    refused = await ranking.post("/v1/rank", {"candidates": ["a"], "user_id": TOLD, "degrade": "never"})
    assert refused.status_code == 503


async def test_without_time_candidates_come_back_as_they_were_given(ranking: Running) -> None:
    response = await ranking.post("/v1/rank", {"candidates": ["b", "e", "a"]}, **{"X-Request-Timeout-Ms": "1"})
    reply = response.json()
    assert of(reply) == "bea"
    assert reply["served"]["tier"] == "retrieved"
    assert reply["served"]["reasons"] == ["deadline_exceeded"]
    assert {item["score"] for item in reply["items"]} == {None}
    body = {"candidates": ["b"], "degrade": "never"}
    assert (await ranking.post("/v1/rank", body, **{"X-Request-Timeout-Ms": "1"})).status_code == 504


async def test_a_crowded_loop_gives_candidates_back_as_they_were_given(ranking: Running) -> None:
    path = ranking.service.recommender.ranking
    deadline = Deadline.start(60_000, time.monotonic())
    answer = await path.rank(RankAsk(["b", "e", "a"], user_id=TOLD), deadline, crowded=True)
    assert of(as_document(answer)) == "bea"
    assert (answer.tier, answer.degraded, answer.reasons) == ("retrieved", True, ["overloaded"])
    with pytest.raises(Overloaded):
        await path.rank(RankAsk(["b"], never_degrade=True), deadline, crowded=True)


async def test_a_ranker_that_fails_is_skipped(ranking: Running, ranked: tuple[Registry, NapkinRanker]) -> None:
    ranked[1].fails = True
    reply = await _rank(ranking, candidates=["b", "e"])
    assert (reply["served"]["tier"], reply["served"]["reasons"]) == ("retrieved", ["model_failed"])
    assert of(reply) == "be"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"candidates": ["a"], "scenario": "nowhere"}, 404, "unknown_scenario"),
        ({"candidates": ["a"], "scenario": "plain"}, 404, "no_ranker"),
        ({"candidates": []}, 422, "validation_failed"),
        ({"candidates": [f"i{n}" for n in range(1_001)]}, 422, "validation_failed"),
        ({"candidates": ["not an id"]}, 422, "validation_failed"),
        ({"candidates": ["a"], "count": 3}, 422, "validation_failed"),
    ],
)
async def test_what_cannot_be_ranked_is_said(body: dict[str, Any], status: int, code: str, ranking: Running) -> None:
    response = await ranking.post("/v1/rank", body)
    assert response.status_code == status
    assert response.json()["code"] == code


async def test_a_thousand_candidates_are_ranked(ranking: Running) -> None:
    reply = await _rank(ranking, candidates=[*(f"item-number-{n:04d}" for n in range(999)), "c"])
    assert reply["items"][0]["item_id"] == "c"
    assert reply["served"]["unknown_candidates"] == 999


async def test_a_bad_request_of_a_batch_fails_alone(ranking: Running) -> None:
    requests = [{"candidates": ["a", "b"]}, {"candidates": 3}, {"candidates": ["a", "b"], "scenario": "down"}]
    response = await ranking.post("/v1/rank/batch", {"requests": requests})
    assert response.status_code == 200
    RankBatchReply.model_validate_json(response.content)
    results = response.json()["results"]
    assert [result["status"] for result in results] == [200, 422, 200]
    assert [of(results[0]), of(results[2])] == ["ba", "ab"]


async def test_a_scenario_retrieves_and_then_ranks(ranking: Running) -> None:
    """After a the model says a 16, b 12, c 8, d 4, e 0, f 0; without the seen a five are retrieved, f unknown."""
    body = {"history": [{"item_id": "a"}]}
    plain = await ranking.recommend(scenario="plain", count=5, **body)
    assert of(plain) == "bcdef"
    assert "ranker" not in plain["served"]
    reply = await ranking.recommend(count=5, **body)
    RecommendReply.model_validate(reply)
    assert of(reply) == "edcbf"
    assert reply["served"]["tier"] == "model"
    assert reply["served"]["ranker"]["name"] == "napkin-ranker"
    assert reply["served"]["unranked"] == 1
    assert reply["items"][0]["score"] == pytest.approx(chance(5))
    assert reply["items"][-1]["score"] is None
    assert of(await ranking.recommend(scenario="down", **body)) == "bcd"


async def test_a_scenario_whose_ranker_is_skipped_serves_what_was_retrieved(
    ranking: Running, ranked: tuple[Registry, NapkinRanker]
) -> None:
    ranked[1].fails = True
    reply = await ranking.recommend(history=[{"item_id": "a"}])
    assert of(reply) == "bcd"
    assert (reply["served"]["tier"], reply["served"]["degraded"]) == ("retrieved", True)
    assert reply["served"]["history_used"] == 1
    refused = await ranking.post("/v1/recommend", {"history": [{"item_id": "a"}], "degrade": "never"})
    assert refused.status_code == 500


async def test_the_ranker_reads_the_history_in_its_own_indices(
    ranking: Running, ranked: tuple[Registry, NapkinRanker]
) -> None:
    await ranking.recommend(history=[{"item_id": "f"}, {"item_id": "c"}])
    assert ranked[1].rows[-1].history == [3]  # it does not know f


async def test_models_lists_rankers_and_who_uses_them(ranking: Running) -> None:
    response = await ranking.client.get("/v1/models")
    found = ModelsReply.model_validate_json(response.content)
    (ranker,) = found.rankers
    assert (ranker.name, ranker.scenarios, ranker.told_users) == ("napkin-ranker", ["up", "down"], 1)
    by_name = {scenario.name: scenario for scenario in found.scenarios}
    assert by_name["up"].ranker is not None
    assert by_name["up"].candidates == 5
    assert by_name["plain"].ranker is None


def test_rows_of_the_retriever_find_their_ranker_rows(tmp_path: Path, models: dict[str, ServedModel]) -> None:
    ranker, _ = napkin_ranker(tmp_path)
    found = ranker.index_map(models["napkin"].artefact)
    assert found.dtype == np.int32
    assert found.tolist() == [0, 1, 2, 3, 4, 5, 0, 0]  # f and g are unknown to it
