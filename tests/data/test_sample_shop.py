from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from models.data.dataset import HTTP_ID, read_dataset
from models.data.folder import digest_of, read_tables
from models.data.sample_shop import SampleShop, generate, make_shop
from models.data.shop_catalogue import TOPICS
from models.data.shop_shoppers import N_DAYS, OPENING
from models.errors import DatasetError


@pytest.fixture(scope="module")
def shop() -> SampleShop:
    return make_shop(seed=3, n_users=400, n_items=240)


def clicks_of(shop: SampleShop) -> list[dict[str, object]]:
    return shop.interactions.to_pylist()


def test_the_same_seed_gives_the_same_folder_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        generate(tmp_path / name, seed=seed, n_users=20, n_items=48)
    assert digest_of(tmp_path / "one") == digest_of(tmp_path / "two")
    assert digest_of(tmp_path / "one") != digest_of(tmp_path / "three")


def test_a_generated_folder_is_a_dataset_with_everything_known(tmp_path: Path) -> None:
    generate(tmp_path / "shop", n_users=60, n_items=48)
    dataset = read_dataset(tmp_path / "shop")
    assert (dataset.n_users, dataset.n_items) == (60, 48)
    assert dataset.scenario_names == ("deals", "home", "search")
    assert dataset.session_ids is not None
    assert all(dataset.item_titles())
    assert dataset.sequences.lengths.min() >= 3
    assert all(HTTP_ID.fullmatch(value) for value in (*dataset.item_ids, *dataset.user_ids, *dataset.session_ids))


def test_nobody_clicks_twice_on_an_item_and_time_always_moves(shop: SampleShop) -> None:
    clicks = clicks_of(shop)
    assert len({(click["user_id"], click["item_id"]) for click in clicks}) == len(clicks)
    assert len({(click["user_id"], click["timestamp"]) for click in clicks}) == len(clicks)


def test_sessions_lie_half_an_hour_apart_and_spread_over_the_whole_time(shop: SampleShop) -> None:
    by_user: dict[object, list[tuple[int, object]]] = {}
    for click in clicks_of(shop):
        by_user.setdefault(click["user_id"], []).append((int(str(click["timestamp"])), click["session_id"]))
    for clicks in by_user.values():
        for (before, session), (after, next_session) in zip(sorted(clicks), sorted(clicks)[1:], strict=False):
            assert after - before <= 300 if session == next_session else after - before >= 1800
    times = shop.interactions.column("timestamp").to_numpy()
    days = (times - OPENING) // 86_400
    assert (days.min(), days.max()) == (0, N_DAYS - 1)
    assert 0.4 < np.mean(days < N_DAYS / 2) < 0.6


def test_a_session_has_one_scenario(shop: SampleShop) -> None:
    scenarios: dict[object, set[object]] = {}
    for click in clicks_of(shop):
        scenarios.setdefault(click["session_id"], set()).add(click["scenario"])
    assert all(len(found) == 1 for found in scenarios.values())


def test_scenarios_differ_in_price_popularity_length_and_click_rate(shop: SampleShop) -> None:
    price = dict(zip(*(shop.items.column(name).to_pylist() for name in ("item_id", "price")), strict=True))
    clicks = clicks_of(shop)
    popularity = Counter(click["item_id"] for click in clicks)

    def mean(scenario: str, value: dict[object, float] | Counter[object]) -> float:
        return float(np.mean([value[click["item_id"]] for click in clicks if click["scenario"] == scenario]))

    assert mean("deals", price) < 0.7 * min(mean("home", price), mean("search", price))
    assert mean("search", popularity) < 0.8 * mean("home", popularity)
    n_sessions = Counter(scenario for _, scenario in {(click["session_id"], click["scenario"]) for click in clicks})
    per_session = {name: n / n_sessions[name] for name, n in Counter(click["scenario"] for click in clicks).items()}
    assert per_session["home"] > per_session["deals"] > per_session["search"]

    shown = shop.impressions.to_pylist()
    rate = {
        name: np.mean([row["label"] for row in shown if row["scenario"] == name])
        for name in ("home", "search", "deals")
    }
    assert rate == pytest.approx({"home": 1 / 6, "search": 1 / 4, "deals": 1 / 8})


def test_every_click_is_an_impression_and_nothing_else_is(shop: SampleShop) -> None:
    names = ["user_id", "item_id", "timestamp", "scenario", "session_id"]
    shown = shop.impressions
    clicked = shown.filter(np.equal(shown.column("label").to_numpy(), 1)).select(names)
    assert clicked.to_pylist() == shop.interactions.select(names).to_pylist()
    passed_over = shown.filter(np.equal(shown.column("label").to_numpy(), 0)).select(names).to_pylist()
    clicks = {tuple(click.values()) for click in clicked.to_pylist()}
    assert not clicks & {tuple(row.values()) for row in passed_over}


def test_popularity_has_a_long_tail(shop: SampleShop) -> None:
    counts = np.sort(list(Counter(click["item_id"] for click in clicks_of(shop)).values()))[::-1]
    assert counts[: shop.items.num_rows // 5].sum() > 0.5 * counts.sum()
    assert np.median(counts) < counts.mean()


def test_texts_carry_the_topics(shop: SampleShop) -> None:
    """Even words in common find items of the same topic: nearest neighbours by shared words of the description."""
    rows = shop.items.to_pylist()
    words = [set(row["description"].lower().replace(".", "").split()) for row in rows]
    same = 0
    for at, mine in enumerate(words):
        shared = [len(mine & other) / len(mine | other) if place != at else -1 for place, other in enumerate(words)]
        same += rows[at]["category"] == rows[int(np.argmax(shared))]["category"]
    assert same > 0.95 * len(rows)
    assert len({row["title"] for row in rows}) == len(rows)
    assert len({row["category"] for row in rows}) == len(TOPICS)


def test_shoppers_follow_their_interests_and_these_drift(shop: SampleShop) -> None:
    """Two clicks of one shopper in different sessions share a topic more often than chance, less so as time passes."""
    category = dict(zip(*(shop.items.column(name).to_pylist() for name in ("item_id", "category")), strict=True))
    by_user: dict[object, list[tuple[object, str]]] = {}
    for click in clicks_of(shop):
        by_user.setdefault(click["user_id"], []).append((click["session_id"], category[click["item_id"]]))

    def same_topic(lag: int) -> float:
        pairs = [pair for clicks in by_user.values() for pair in zip(clicks, clicks[lag:], strict=False)]
        return float(np.mean([old[1] == new[1] for old, new in pairs if old[0] != new[0]]))

    assert same_topic(2) > same_topic(20) + 0.05
    assert same_topic(20) > 1.5 / len(TOPICS)


def test_a_tiny_shop_works_and_a_tinier_one_is_refused(tmp_path: Path) -> None:
    generate(tmp_path / "shop", n_users=1, n_items=10)
    assert read_tables(tmp_path / "shop").interactions.num_rows >= 3
    with pytest.raises(DatasetError, match="1 users and 9 items"):
        make_shop(n_users=1, n_items=9)
