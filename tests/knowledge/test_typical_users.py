from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from models.errors import KnowledgeError
from models.knowledge import typical
from models.knowledge.typical import typical_users


def groups(n_groups: int, size: int, spread: float = 0.05) -> NDArray[np.float32]:
    """Unit vectors in tight groups around far-apart directions; row r is of group r % n_groups."""
    rng = np.random.default_rng(5)
    centres = np.eye(n_groups)
    points = np.tile(centres, (size, 1)) + rng.normal(0, spread / n_groups**0.5, (n_groups * size, n_groups))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def test_each_group_has_one_typical_user_under_affinity_propagation() -> None:
    chosen = typical_users(groups(6, 10), 0.1)
    assert sorted((chosen % 6).tolist()) == [0, 1, 2, 3, 4, 5]


def test_each_group_has_one_typical_user_in_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typical, "AFFINITY_LIMIT", 10)
    monkeypatch.setattr(typical, "CELL", 30)
    seen: list[int] = []
    chosen = typical_users(groups(6, 10), 0.1, on_progress=lambda done, total: seen.append(done))
    assert len(chosen) == 6
    assert seen[-1] == 60


def test_the_share_is_met_on_users_without_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(1).normal(size=(600, 8)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    # The preference decides, and only in steps: within a tenth of the share.
    assert 27 <= len(typical_users(features, 0.05)) <= 33
    monkeypatch.setattr(typical, "AFFINITY_LIMIT", 100)
    monkeypatch.setattr(typical, "CELL", 100)
    assert 28 <= len(typical_users(features, 0.05)) <= 30
    assert (typical_users(features, 0.05) == typical_users(features, 0.05)).all()


def test_users_nothing_is_known_of_are_never_typical() -> None:
    features = groups(4, 5)
    features[::4] = 0
    chosen = typical_users(features, 0.2)
    assert len(chosen) == 3
    assert not (chosen % 4 == 0).any()
    assert typical_users(features, 1.0).tolist() == [row for row in range(20) if row % 4]


def test_a_share_that_is_none_and_users_that_are_unknown_are_refused() -> None:
    with pytest.raises(KnowledgeError, match="share is 0"):
        typical_users(groups(2, 2), 0)
    with pytest.raises(KnowledgeError, match="no user has a titled item"):
        typical_users(np.zeros((3, 2), dtype=np.float32), 0.5)
