from __future__ import annotations

import numpy as np
import pytest
from napkin import TABLE
from numpy.typing import NDArray

from service.inference import similarity
from service.inference.similarity import ItemSimilarity

A, B, C, D, E, F, G = range(1, 8)
ALL = np.array([False] + [True] * 7)


def best(search: ItemSimilarity, seeds: list[int], k: int, *excluded: int) -> list[int]:
    ((indices, _),) = search.search([seeds], k, [np.array(excluded, np.int64)])
    return indices.tolist()


def test_similar_items_point_in_the_same_direction_however_long_they_are() -> None:
    ((indices, cosines),) = ItemSimilarity(TABLE, ALL).search([[E]], 3, [np.array([E])])

    # e is (0, 4): f (0, 1) points the same way, d (1, 3) nearly, and c and g (both 45 degrees) tie.
    assert indices.tolist() == [F, D, C]
    assert cosines == pytest.approx([1, 3 / 10**0.5, 0.5**0.5])


def test_items_near_a_vector_are_found_as_those_near_an_item() -> None:
    available = ALL.copy()
    available[G] = False
    (long, nothing) = ItemSimilarity(TABLE, available).near(np.array([[0, 0.5], [0, 0]], np.float32), 3)

    assert long[0].tolist() == [E, F, D]
    assert long[1] == pytest.approx([1, 1, 3 / 10**0.5])
    assert nothing[0].tolist() == [A, B, C]  # no direction: like nothing, the first ones
    assert nothing[1].tolist() == [0, 0, 0]


def test_the_nearest_of_several_seeds_counts() -> None:
    assert best(ItemSimilarity(TABLE, ALL), [A, F], 3, A, F) == [E, B, D]


def test_unavailable_and_excluded_items_and_the_padding_row_never_appear() -> None:
    available = ALL.copy()
    available[G] = False

    assert best(ItemSimilarity(TABLE, available), [E], 100, E, D) == [F, C, B, A]


def test_a_change_of_availability_shows_in_the_next_search() -> None:
    available = ALL.copy()
    search = ItemSimilarity(TABLE, available)
    available[F] = False

    assert best(search, [E], 1, E) == [D]


def test_an_item_without_direction_is_like_nothing() -> None:
    table = np.array([(0, 0), (0, 0), (1, 0), (0, 1)], np.float32)

    ((_, cosines),) = ItemSimilarity(table, np.array([False, True, True, True])).search(
        [[1]], 3, [np.empty(0, np.int64)]
    )

    assert cosines.tolist() == [0, 0, 0]


def test_blocks_give_the_same_answer_as_one_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    table = rng.standard_normal((200, 5)).astype(np.float32)
    table[150] = table[17]  # a tie across blocks
    available = np.array([False] + [True] * 199)
    excluded = [rng.integers(1, 200, 20) for _ in range(8)]
    seeds = [[17], *([int(n)] for n in rng.integers(1, 200, 7))]
    whole = ItemSimilarity(table, available).search(seeds, 30, excluded)

    monkeypatch.setattr(similarity, "_BLOCK_ROWS", 16)
    blocked = ItemSimilarity(table, available).search(seeds, 30, excluded)

    for (expected, _), (found, _), row, hidden in zip(whole, blocked, seeds, excluded, strict=True):
        assert found.tolist() == expected.tolist() == _by_sorting(table, row[0], hidden, 30)


def _by_sorting(table: NDArray[np.float32], seed: int, hidden: NDArray[np.int64], k: int) -> list[int]:
    norms = np.linalg.norm(table, axis=1)
    cosines = np.round((table @ table[seed]) / norms / norms[seed], 6)
    order = sorted(range(1, len(table)), key=lambda index: (-cosines[index], index))
    return [index for index in order if index not in set(hidden.tolist())][:k]
