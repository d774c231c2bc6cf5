from __future__ import annotations

import numpy as np
import pytest

from models.errors import KnowledgeError
from models.knowledge.pca import fit_pca


def test_points_on_a_line_have_one_direction_and_all_their_variance_along_it() -> None:
    # (0,0), (3,4), (6,8): mean (3,4), direction (0.6,0.8), coordinates -5, 0, 5, variance 50 / 2 = 25.
    pca = fit_pca(np.array([[0, 0], [3, 4], [6, 8]], dtype=np.float32), 1)
    np.testing.assert_allclose(pca.mean, [3, 4])
    np.testing.assert_allclose(np.abs(pca.components), [[0.6, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(pca.explained_variance, [25], rtol=1e-6)
    assert pca.explained_ratio == pytest.approx(1.0)


def test_the_same_vectors_give_the_same_bits() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32)
    one, two = fit_pca(vectors, 8), fit_pca(vectors.copy(), 8)
    assert one.components.shape == (8, 20)
    np.testing.assert_array_equal(one.components, two.components)
    assert 0 < one.explained_ratio < 1


def test_there_are_never_more_components_than_items_or_dimensions() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 20)).astype(np.float32)
    assert fit_pca(vectors, 64).components.shape == (5, 20)
    assert fit_pca(vectors[:, :3], 64).components.shape == (3, 3)
    with pytest.raises(KnowledgeError, match="at least 2 items, found 1"):
        fit_pca(vectors[:1], 64)
