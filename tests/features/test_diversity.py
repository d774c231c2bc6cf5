from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.features.diversity import diversify, n_candidates, topics_of

# Relevance 1, 0.9, 0.8, 0.5, 0; topics: a a a b c.
SCORES = np.array([10.0, 9.0, 8.0, 5.0, 0.0], np.float32)
TOPICS = np.array([0, 0, 0, 1, 2])

candidates = st.lists(st.tuples(st.floats(-100, 100, width=32), st.integers(0, 4)), min_size=1, max_size=30).map(
    lambda found: sorted(found, reverse=True)
)
levels = st.floats(0, 1)


@pytest.mark.parametrize(
    ("diversity", "expected"),
    [
        (0.0, [0, 1, 2, 3]),
        # Second place: 0.9 x 0.9 = 0.81 for the second a against 0.9 x 0.5 + 0.1 = 0.55 for b. Third: 0.72, 0.55, 0.1.
        # Fourth: b 0.45 + 0.1, c 0.1.
        (0.1, [0, 1, 2, 3]),
        # Second place: 0.63 against b 0.65. Third: a 0.63 + 0.15 = 0.78, c 0.3. Fourth: a 0.56 + 0.1 = 0.66, c 0.3.
        (0.3, [0, 3, 1, 2]),
        # Second: b 0.35 + 0.3 at 0.3 was enough; here b 0.15 + 0.7, a 0.27, c 0.7. Third: a 0.27 + 0.35, c 0.7.
        (0.7, [0, 3, 4, 1]),
        # Topics in turn; then the topic that has been taken least, equally so: the better candidate.
        (1.0, [0, 3, 4, 1]),
    ],
)
def test_a_list_by_hand(diversity: float, expected: list[int]) -> None:
    assert diversify(SCORES, TOPICS, 4, diversity).tolist() == expected


def test_full_diversity_takes_topics_in_turn() -> None:
    topics = np.array([0, 0, 0, 1, 1])
    assert diversify(SCORES, topics, 5, 1.0).tolist() == [0, 3, 1, 4, 2]


def test_candidates_of_equal_score_differ_by_topic_alone() -> None:
    scores = np.zeros(4, np.float32)
    assert diversify(scores, np.array([0, 0, 1, 1]), 4, 0.5).tolist() == [0, 2, 1, 3]


def test_fewer_candidates_than_places_are_all_taken() -> None:
    assert diversify(SCORES, TOPICS, 10, 0.3).tolist() == [0, 3, 1, 2, 4]
    assert diversify(SCORES[:0], TOPICS[:0], 10, 0.3).tolist() == []


@given(candidates, levels, st.integers(1, 40))
def test_a_list_is_distinct_candidates_beginning_with_the_best(
    found: list[tuple[float, int]], diversity: float, count: int
) -> None:
    scores, topics = np.array([score for score, _ in found], np.float32), np.array([topic for _, topic in found])
    chosen = diversify(scores, topics, count, diversity).tolist()
    assert len(chosen) == len(set(chosen)) == min(count, len(found))
    assert set(chosen) <= set(range(len(found)))
    assert chosen[0] == 0


@given(candidates, st.integers(1, 40))
def test_without_diversity_the_list_is_the_ranking(found: list[tuple[float, int]], count: int) -> None:
    scores, topics = np.array([score for score, _ in found], np.float32), np.array([topic for _, topic in found])
    assert diversify(scores, topics, count, 0.0).tolist() == list(range(min(count, len(found))))


@given(candidates, levels, st.integers(1, 40))
def test_of_one_topic_the_list_is_the_ranking(found: list[tuple[float, int]], diversity: float, count: int) -> None:
    scores = np.array([score for score, _ in found], np.float32)
    chosen = scores[diversify(scores, np.zeros(len(found), np.int64), count, diversity)]
    assert chosen.tolist() == scores[:count].tolist()


@given(candidates, st.integers(1, 40))
def test_full_diversity_has_every_topic_that_fits(found: list[tuple[float, int]], count: int) -> None:
    scores, topics = np.array([score for score, _ in found], np.float32), np.array([topic for _, topic in found])
    chosen = diversify(scores, topics, count, 1.0)
    assert len(set(topics[chosen].tolist())) == min(len(set(topics.tolist())), len(chosen))


def test_items_speak_of_their_category_or_else_of_the_query_that_won_them() -> None:
    topics = topics_of(["soap", None, "soap", None, "", "0"], [0, 0, 1, 1, 0, 0])
    assert topics.tolist() == [0, 1, 0, 2, 1, 3]


@pytest.mark.parametrize(("count", "expected"), [(1, 10), (10, 100), (50, 500), (200, 500)])
def test_a_list_is_chosen_from_ten_candidates_a_place(count: int, expected: int) -> None:
    assert n_candidates(count) == expected
