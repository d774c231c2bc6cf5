"""What was seen or excluded is not recommended: on no rung of the ladder, whatever goes wrong."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from napkin import Running, Start, ids

from export.baselines import write_topk_only
from service.inference.loader import load
from service.registry import Registry, Scenario
from service.served_model import ServedModel

N_ITEMS = 40
CATALOGUE = [f"i{n:02}" for n in range(N_ITEMS)]
UNAVAILABLE = set(CATALOGUE[::7])
CATEGORIES = [("Hair > Shampoos", "Hairbrushes", None)[n % 3] for n in range(N_ITEMS)]
SHOWN = {"home": set(CATALOGUE), "hair": set(CATALOGUE[::3])}  # in a scenario that is limited to `Hair`
ITEM = st.sampled_from([*CATALOGUE, "unknown"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    counts = np.random.default_rng(5).integers(0, 9, N_ITEMS)
    available = [item not in UNAVAILABLE for item in CATALOGUE]
    table = np.random.default_rng(6).standard_normal((N_ITEMS + 1, 4)).astype(np.float32)
    root = tmp_path_factory.mktemp("forty")
    columns: dict[str, Any] = {"counts": counts, "available": available, "categories": CATEGORIES}
    path = write_topk_only(root, item_ids=CATALOGUE, table=table, **columns)
    return ServedModel(load(path, intra_op_threads=1, device="cpu"))


@pytest.fixture
def forty(model: ServedModel) -> Registry:
    home = Scenario("home", model, count=10, deadline_ms=100, seen="exclude")
    return Registry([home, replace(home, name="hair", categories=("Hair",))], default="home")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    seen=st.lists(ITEM, max_size=30),
    excluded=st.lists(ITEM, max_size=30),
    count=st.integers(1, 60),
    trouble=st.sampled_from(["none", "store away", "no time"]),
    stateless=st.booleans(),
    listed=st.booleans(),
    user=st.integers(0, 10**12),
    scenario=st.sampled_from(sorted(SHOWN)),
)
async def test_seen_excluded_unavailable_and_foreign_items_never_appear(
    fleet: Running,
    seen: list[str],
    excluded: list[str],
    count: int,
    trouble: str,
    stateless: bool,
    listed: bool,
    user: int,
    scenario: str,
) -> None:
    owner = {"user_id": f"u{user}"}
    body: dict[str, Any] = {**owner, "scenario": scenario, "count": count, "exclude": {"item_ids": excluded}}
    if stateless:
        body["history"] = [{"item_id": item} for item in seen]
    else:
        await fleet.client.delete(f"/v1/users/u{user}")  # a number may come twice
        await fleet.look(*seen, **owner)
    if listed:
        await fleet.recommend(**owner, scenario=scenario)
    fleet.store.away = trouble == "store away"
    header = {"X-Request-Timeout-Ms": "1"} if trouble == "no time" else {}

    response = await fleet.post("/v1/recommend", body, **header)
    fleet.store.away = False

    assert response.status_code == 200
    found = ids(response.json())
    forbidden = {*excluded, *seen, *UNAVAILABLE}
    assert not set(found) & forbidden
    assert len(found) == len(set(found)) <= count
    if response.json()["served"]["tier"] != "cache":  # never fewer than there are
        assert len(found) == min(count, len(SHOWN[scenario] - forbidden))
    assert set(found) <= SHOWN[scenario]


@pytest.fixture
async def fleet(start: Start, forty: Registry) -> Any:
    async with start(lambda: forty) as running:
        await running.service.until_loaded()
        yield running


async def test_a_visit_never_sees_an_item_again(fleet: Running) -> None:
    """Thirty recommendations, each followed by a look at the first item, while the store comes and goes."""
    rng, met = random.Random(11), set[str]()
    for _ in range(30):
        reply = await fleet.recommend(user_id="u1", count=5)
        assert not met & set(ids(reply))
        if not reply["items"]:
            break
        await fleet.look(reply["items"][0]["item_id"], user_id="u1")
        met.add(reply["items"][0]["item_id"])
        fleet.store.away = rng.random() < 0.4
        assert not met & set(ids(await fleet.recommend(user_id="u1", count=5)))
        fleet.store.away = False
    assert len(met) == 30


async def test_two_users_at_once_never_share_what_they_saw(fleet: Running) -> None:
    await fleet.look(*CATALOGUE[:20], user_id="u1")
    await fleet.look(*CATALOGUE[20:], user_id="u2")

    replies = await asyncio.gather(*(fleet.recommend(user_id=f"u{1 + n % 2}", count=50) for n in range(40)))

    for n, reply in enumerate(replies):
        assert set(ids(reply)) == set(CATALOGUE[20:] if n % 2 == 0 else CATALOGUE[:20]) - UNAVAILABLE


async def test_similar_items_are_of_the_scenarios_categories(fleet: Running) -> None:
    response = await fleet.post("/v1/similar", {"scenario": "hair", "item_ids": [CATALOGUE[1]], "count": 40})

    assert set(ids(response.json())) == SHOWN["hair"] - UNAVAILABLE
