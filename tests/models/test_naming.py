"""Floors and categories of phrases, and their agreement with items, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from models.explanation_control import Named
from models.naming import chance_floor, phrase_categories


def test_what_is_near_by_chance_grows_with_phrases_and_shrinks_with_dimensions() -> None:
    rng = np.random.default_rng(1)

    def floor(n_phrases: int, dim: int) -> float:
        return chance_floor(
            rng.normal(size=(400, dim)).astype(np.float32), rng.normal(size=(n_phrases, dim)).astype(np.float32)
        )

    few, many, wide = floor(4, 16), floor(400, 16), floor(400, 128)
    assert wide < many
    assert few < many < 1


def test_phrases_on_the_queries_themselves_do_not_raise_the_floor() -> None:
    """What is true of them is lost when they are turned: the floor tells of chance alone."""
    queries = np.random.default_rng(2).normal(size=(200, 64)).astype(np.float32)
    assert chance_floor(queries, queries) < 0.6


def test_in_one_dimension_everything_is_near_by_chance() -> None:
    # Turned or not, a cosine is 1 or -1, and with both signs among the phrases the nearest is 1.
    assert chance_floor(np.array([[2.0], [-1.0]], np.float32), np.array([[1.0], [-3.0]], np.float32)) == 1.0


def test_without_queries_no_phrase_is_near_enough() -> None:
    assert chance_floor(np.empty((0, 4), np.float32), np.ones((2, 4), np.float32)) == 1.0


def test_a_phrase_speaks_of_the_category_whose_titles_lie_nearest_in_text() -> None:
    items = np.array([[0, 0], [5, 0], [4, 3], [0, 1], [0, 0], [-1, 0]], np.float32)
    # soap: (1, 0) and (0.8, 0.6), mean towards (0.95, 0.32); brush: (0, 1), and one item without a title; the last has
    # no category.
    categories = ["soap", "soap", "brush", "brush", ""]
    phrases = np.array([[9, 0], [1, 9], [0.6, 0.7], [-1, 0.1]], np.float32)
    assert phrase_categories(phrases, items, categories) == ["soap", "brush", "soap", "brush"]


def named() -> Named:
    """Three users, two items each; phrases 0 and 1 speak of a, phrase 2 of b."""
    return Named(
        phrase=np.array([[0, 1], [2, 2], [1, 0]]),
        cosine=np.array([[0.9, 0.6], [0.7, 0.4], [0.8, 0.9]], np.float32),
        spoken=np.array(["a", "a", "b"], object),
        categories=np.array([["a", "b"], ["b", "b"], ["a", ""]], object),
    )


def test_agreement_counts_named_items_with_a_category() -> None:
    # At 0.5: (0.9 a a yes) (0.6 a b no) (0.7 b b yes) (0.8 a a yes); 0.4 is too far, the last item has no category.
    deal = np.array([2, 0, 1])  # vector 0 gets b, vectors 1 and 2 get a: no, no, no, yes
    found = named().agreement(0.5, [deal], 0, 1)
    assert found == {"n": 4, "n_agree": 3, "true": 0.75, "shuffled": 0.25}
    everything = named().agreement(-1.0, [np.arange(3)], 0, 1)
    assert (everything["n"], everything["true"], everything["shuffled"]) == (5, 0.8, 0.8)


def test_intervals_hold_the_figures_they_are_of() -> None:
    rng = np.random.default_rng(3)
    phrase = rng.integers(0, 3, (200, 5))
    spoken = np.array(["a", "b", "c"], object)
    right = rng.random((200, 5)) < 0.6
    categories = np.where(right, spoken[phrase], "d")
    many = Named(phrase, np.ones((200, 5), np.float32), spoken, categories)
    found = many.agreement(0.5, [np.array([1, 2, 0]), np.array([2, 0, 1])], 500, 1)
    assert found["true"] == pytest.approx(right.mean())
    assert found["shuffled"] == 0
    assert found["true_95"][0] < right.mean() < found["true_95"][1]
    assert found["difference_95"][0] < found["difference"] < found["difference_95"][1]
    assert found["told_apart"] is True
    same = many.agreement(0.5, [np.arange(3)], 500, 1)
    assert (same["difference"], same["difference_95"], same["told_apart"]) == (0, [0, 0], False)


def test_nothing_named_is_no_agreement() -> None:
    assert named().agreement(0.95, [np.arange(3)], 100, 1) == {"n": 0, "n_agree": 0, "true": None, "shuffled": None}
