from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.knowledge import similar
from models.knowledge.similar import similar_users

ALL5 = np.ones(5, dtype=bool)


def test_neighbours_are_ordered_by_cosine_whatever_the_length_of_the_vectors() -> None:
    # Angles 0, 10, 30, 60 and 100 degrees, lengths 1 to 5.
    angles = np.radians([0, 10, 30, 60, 100])
    vectors = (np.stack([np.cos(angles), np.sin(angles)], 1) * np.arange(1, 6)[:, None]).astype(np.float32)
    assert similar_users(vectors, 3, ALL5).tolist() == [[1, 2, 3], [0, 2, 3], [1, 0, 3], [2, 4, 1], [3, 2, 1]]


def test_a_user_is_never_its_own_neighbour_even_among_equals() -> None:
    vectors = np.array([[1, 0], [1, 0], [1, 0], [1, 0], [0, 1]], dtype=np.float32)
    neighbours = similar_users(vectors, 2, ALL5)
    assert neighbours.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]  # ties to the lowest row
    assert neighbours.dtype == np.int32


def test_equal_vectors_tie_exactly_although_a_matrix_product_rounds_them_apart() -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(size=(40, 384)).astype(np.float32)
    vectors = np.vstack([base, base[::-1]])
    neighbours = similar_users(vectors, 79, np.ones(80, dtype=bool))
    twins = 79 - np.arange(80)  # row u and row 79 - u are equal
    for user, row in enumerate(neighbours.tolist()):
        assert row[0] == twins[user]
        order = [other for other in row if other != twins[user]]
        assert [(order[i], order[i + 1]) for i in range(0, 78, 2)] == [
            (min(order[i], 79 - order[i]), max(order[i], 79 - order[i])) for i in range(0, 78, 2)
        ]


def test_users_without_text_are_nobodys_neighbour() -> None:
    vectors = np.array([[1, 0], [0, 0], [0, 1], [1, 1], [0, 0]], dtype=np.float32)
    known = np.array([True, False, True, True, False])
    neighbours = similar_users(vectors, 100, known)
    assert neighbours.shape == (5, 2)  # three known users, less oneself
    assert neighbours[[0, 2, 3]].tolist() == [[3, 2], [3, 0], [0, 2]]
    assert set(neighbours.ravel().tolist()) == {0, 2, 3}


def test_one_known_user_has_no_neighbours() -> None:
    assert similar_users(np.eye(2, dtype=np.float32), 5, np.array([True, False])).shape == (2, 0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), users=st.integers(2, 30), n=st.integers(1, 12), block=st.integers(1, 4000))
def test_blocks_give_what_the_full_matrix_gives(seed: int, users: int, n: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, size=(users, 2)).astype(np.float32)  # many ties and zero vectors
    known = rng.random(users) < 0.8
    known[:2] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similar, "BLOCK_BYTES", block)
        found = similar_users(vectors, n, known)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosine = np.round(unit.astype(np.float64) @ unit.T.astype(np.float64), 6)
    for user in range(users):
        others = [other for other in range(users) if other != user and known[other]]
        expected = sorted(others, key=lambda other: -cosine[user, other])[: found.shape[1]]
        assert np.allclose(cosine[user, found[user]], cosine[user, expected])
        assert user not in found[user]
        assert known[found[user]].all()
        assert len(set(found[user].tolist())) == found.shape[1]
