from __future__ import annotations

import numpy as np
import pytest

from service.features.explanation import heaviest_item, nearest_phrases, parts_of_score, unit_rows, winning_queries


def test_the_query_with_the_best_dot_product_wins_an_item_ties_to_the_first() -> None:
    queries = np.array([[1, 0], [0, 2]], np.float32)
    rows = np.array([[4, 0], [3, 1], [2, 1], [1, 3], [0, 0], [-1, -2]], np.float32)
    # <q0, row> 4 3 2 1 0 -1; <q1, row> 0 2 2 6 0 -4
    assert winning_queries(queries, rows).tolist() == [0, 0, 0, 1, 0, 0]


def test_the_nearest_phrase_is_by_cosine_whatever_the_lengths() -> None:
    phrases = unit_rows(np.array([[10, 10], [0, 0.5], [0, 0]], np.float32))
    nearest, cosines = nearest_phrases(np.array([[3, 4], [0, 9], [0, 0], [-1, -1]], np.float32), phrases)
    # (3, 4): 7 / (5 sqrt 2) = 0.99 with the first, 0.8 with the second. (-1, -1): the empty phrase's 0 is the best.
    assert nearest.tolist() == [0, 1, 0, 2]
    assert cosines.tolist() == pytest.approx([7 / (5 * 2**0.5), 1, 0, 0])


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ([2, 1], [1.0, 0.5, 0.0]),  # <row, item> 2, 2 and -8, times the attention; what speaks against it is no reason
        ([-1, 0], [0.0, 0.0, 1.0]),
        ([0, -1], [0.5, 0.25, 0.25]),  # 0, -2 and 0: nothing speaks for it, so the attention is all that is known
    ],
)
def test_the_parts_of_a_score_by_hand(item: list[float], expected: list[float]) -> None:
    attention = np.array([0.5, 0.25, 0.25], np.float32)
    rows = np.array([[1, 0], [0, 2], [-4, 0]], np.float32)
    assert parts_of_score(attention, rows, np.array(item, np.float32)).tolist() == expected


@pytest.mark.parametrize(
    ("history", "parts", "expected"),
    [
        ([5], [2.0], (5, 1.0)),
        ([5, 7, 5], [0.6, 0.8, 0.6], (5, 0.6)),  # both looks at 5 count
        ([5, 7, 8], [0.25, 0.375, 0.375], (8, 0.375)),  # the newer of equals
        ([5, 7], [0.0, 0.0], (7, 0.0)),
    ],
)
def test_the_heaviest_item_by_hand(history: list[int], parts: list[float], expected: tuple[int, float]) -> None:
    item, weight = heaviest_item(history, np.array(parts, np.float32))
    assert (item, weight) == (expected[0], pytest.approx(expected[1]))
