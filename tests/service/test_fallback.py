from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from napkin import ITEMS

from service.artefact.directory import Artefact
from service.fallback import MAX_LOOKS, LastList, LastLists, Owner, PopularItems
from service.served_model import ServedModel

NONE = np.empty(0, np.int64)


def named(items: np.ndarray) -> list[str]:
    return [ITEMS[index - 1] for index in items]


def test_popular_items_come_by_training_count_and_ties_by_item_id(models: dict[str, ServedModel]) -> None:
    items, counts = models["napkin"].popular.best(10, NONE)

    assert named(items) == ["c", "a", "d", "f", "b", "e"]  # g, the most popular, is not available
    assert counts == [9, 5, 5, 2, 1, 0]
    assert models["napkin"].popular.tier == "popular"


def test_excluded_items_are_replaced_by_the_next_popular_ones(models: dict[str, ServedModel]) -> None:
    items, _ = models["napkin"].popular.best(2, np.array([3, 4]))

    assert named(items) == ["a", "f"]


def test_without_training_counts_the_catalogue_order_serves_without_scores(models: dict[str, ServedModel]) -> None:
    items, scores = models["plain"].popular.best(3, np.array([2]))

    assert models["plain"].popular.tier == "static"
    assert named(items) == ["a", "c", "d"]
    assert scores == [None, None, None]


def test_when_everything_is_excluded_nothing_is_left(models: dict[str, ServedModel]) -> None:
    items, scores = models["napkin"].popular.best(3, np.arange(1, 8))

    assert (len(items), scores) == (0, [])


def a_list(*items: int) -> LastList:
    return LastList(np.array(items), np.zeros(len(items), np.float32), NONE)


def _user(name: str) -> Owner:
    return "user", name


def test_the_least_recently_used_owner_is_forgotten_first() -> None:
    lists = LastLists(2)
    first, second, third = (_user(name) for name in "xyz")
    lists.put(first, "home", "v1", a_list(1))
    lists.put(second, "home", "v1", a_list(2))
    lists.note(first, "view", "a")  # used again

    lists.put(third, "home", "v1", a_list(3))

    assert lists.get(second, "home", "v1") is None
    assert lists.get(first, "home", "v1") is not None
    assert len(lists) == 2


def test_lists_are_kept_apart_by_owner_scenario_and_version() -> None:
    lists = LastLists(10)
    owner: Owner = ("user", "x")
    lists.put(owner, "home", "v1", a_list(1))

    assert lists.get(("session", "x"), "home", "v1") is None
    assert lists.get(owner, "cart", "v1") is None
    assert lists.get(owner, "home", "v2") is None


def test_a_new_version_replaces_the_list_of_the_old_one() -> None:
    lists = LastLists(10)
    owner: Owner = ("user", "x")
    lists.put(owner, "home", "v1", a_list(1))
    lists.put(owner, "cart", "v1", a_list(2))

    lists.put(owner, "home", "v2", a_list(3))

    assert lists.get(owner, "home", "v1") is None
    assert lists.get(owner, "cart", "v1") is not None


def test_a_dropped_owner_is_gone_in_every_scenario() -> None:
    lists = LastLists(10)
    owner: Owner = ("user", "x")
    lists.put(owner, "home", "v1", a_list(1))
    lists.put(owner, "cart", "v1", a_list(2))

    lists.drop(owner)

    assert len(lists) == 0


def test_looks_are_remembered_for_their_owner_newest_last_and_only_so_many() -> None:
    lists = LastLists(10)
    for number in range(MAX_LOOKS + 5):
        lists.note(("user", "x"), "view", str(number))

    looks = list(lists.looks(("user", "x")))

    assert (len(looks), looks[0], looks[-1]) == (MAX_LOOKS, ("view", "5"), ("view", str(MAX_LOOKS + 4)))
    assert list(lists.looks(("session", "x"))) == []


@pytest.mark.parametrize("missing", [0, 4_096, 4_900])
def test_popular_items_beyond_the_ones_at_hand_are_found_as_well(missing: int) -> None:
    popularity = np.arange(5_001)  # item 5000 is the most popular one
    available = np.ones(5_001, np.bool_)
    popular = PopularItems(cast(Artefact, SimpleNamespace(popularity=popularity, available=available)))

    available[5_001 - missing :] = False  # a change shows at once
    items, counts = popular.best(3, np.array([5_000 - missing, 17]))

    assert items.tolist() == [4_999 - missing, 4_998 - missing, 4_997 - missing]
    assert counts == [4_999.0 - missing, 4_998.0 - missing, 4_997.0 - missing]


def test_excluding_most_of_the_catalogue_leaves_the_least_popular_items() -> None:
    popularity = np.arange(5_001)
    popular = PopularItems(cast(Artefact, SimpleNamespace(popularity=popularity, available=np.ones(5_001, np.bool_))))

    items, counts = popular.best(20, np.arange(3, 5_001))

    assert (items.tolist(), counts) == ([2, 1], [2.0, 1.0])


@pytest.mark.parametrize("n_hidden", [3, 5_000])
def test_what_is_hidden_is_left_out_of_a_last_list_however_much_that_is(n_hidden: int) -> None:
    hidden = np.arange(7, 7 + n_hidden)  # hides 7 to 9, and with more of them 2000 as well

    places = a_list(9, 3, 7, 6_000, 2_000).places_without(hidden)

    assert places == ([1, 3, 4] if n_hidden == 3 else [1, 3])
