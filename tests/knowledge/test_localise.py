"""Intent localisation by hand: three items in the plane."""

from __future__ import annotations

import numpy as np
import pytest

from models.errors import KnowledgeError
from models.knowledge.localise import localise

# Row 0 is padding, row 4 an item without a title. Cosines with the query: .8, .6 and .96.
ITEMS = np.array([[0, 0], [1, 0], [0, 1], [0.6, 0.8], [0, 0]], dtype=np.float32)
QUERY = np.array([[0.8, 0.6]], dtype=np.float32)


def test_an_intent_is_the_sum_of_its_nearest_items_each_by_its_own_cosine() -> None:
    found = localise(QUERY, ITEMS, 2)
    assert found.neighbours.tolist() == [[3, 1]]
    np.testing.assert_allclose(found.similarities, [[0.96, 0.8]], atol=1e-6)
    # .96 (.6, .8) + .8 (1, 0)
    np.testing.assert_allclose(found.vectors, [[1.376, 0.768]], atol=1e-6)


def test_the_published_pairing_gives_something_else() -> None:
    """The script pairs the nearest items with the cosines of the first rows and divides by r (sheet, 8.1)."""
    nearest, first_rows = ITEMS[[3, 1]], (QUERY @ ITEMS[1:3].T)[0]
    published = (first_rows[:, None] * nearest).sum(0) / 2
    np.testing.assert_allclose(published, [0.54, 0.32], atol=1e-6)
    assert np.abs(localise(QUERY, ITEMS, 2).vectors[0] - published).max() > 0.4


def test_normalised_weights_sum_to_one() -> None:
    found = localise(QUERY, ITEMS, 2, "normalised")
    np.testing.assert_allclose(found.vectors, np.array([[1.376, 0.768]]) / 1.76, atol=1e-6)


def test_without_neighbours_an_intent_is_the_answer_itself() -> None:
    found = localise(QUERY, ITEMS, 0)
    np.testing.assert_array_equal(found.vectors, QUERY)
    assert found.neighbours.shape == (1, 0)


def test_a_query_without_a_direction_gives_zeros_and_equal_items_the_lower_index() -> None:
    found = localise(np.zeros((1, 2), dtype=np.float32), ITEMS, 1)
    np.testing.assert_array_equal(found.vectors, [[0, 0]])
    twice = np.array([[0, 0], [0, 1], [1, 0], [1, 0]], dtype=np.float32)
    assert localise(np.array([[1, 0]], dtype=np.float32), twice, 2).neighbours.tolist() == [[2, 3]]


def test_a_vector_does_not_depend_on_what_it_is_computed_with(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    items = np.concatenate([np.zeros((1, 6)), rng.normal(size=(40, 6))]).astype(np.float32)
    queries = rng.normal(size=(30, 6)).astype(np.float32)
    whole = localise(queries, items, 5)
    monkeypatch.setattr("models.knowledge.localise._BLOCK_SCORES", 160)  # four queries a block
    parts = localise(queries, items, 5)
    np.testing.assert_allclose(parts.vectors, whole.vectors, atol=1e-6)
    np.testing.assert_array_equal(parts.neighbours, whole.neighbours)


def test_a_catalogue_with_fewer_titles_than_neighbours_is_refused() -> None:
    with pytest.raises(KnowledgeError, match="3 items have a text, expected at least the 4"):
        localise(QUERY, ITEMS, 4)
