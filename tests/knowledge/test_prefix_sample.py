"""Which prefixes are asked about: within the budget, by length, typical sessions among them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from models.errors import KnowledgeError
from models.knowledge.prefix_sample import sample_prefixes, shares

NOBODY = np.zeros((200, 2), dtype=np.float32)


def test_a_budget_of_calls_pays_for_half_as_many_prefixes_each_followed_by_a_click() -> None:
    lengths = np.full(200, 6)
    drawn = sample_prefixes(lengths, NOBODY, 61, typical_share=0.0, seed=1)
    assert len(drawn) == len(set(drawn)) == 30
    assert all(1 <= cut <= 5 for _, cut in drawn)
    assert len({session for session, _ in drawn}) == 30  # one a session, while there are sessions
    assert drawn == sample_prefixes(lengths, NOBODY, 61, typical_share=0.0, seed=1)
    assert drawn != sample_prefixes(lengths, NOBODY, 61, typical_share=0.0, seed=2)


def test_lengths_are_asked_about_as_often_as_they_occur() -> None:
    # 100 prefixes of one click; 100 sessions of five clicks have one each of 1, 2, 3-4 (two): 200, 100, 200.
    lengths = np.array([2] * 100 + [5] * 100)
    drawn = sample_prefixes(lengths, NOBODY, 100, typical_share=0.0, seed=3)
    strata = Counter(("1" if cut == 1 else "2" if cut == 2 else "3-4") for _, cut in drawn)
    assert strata == {"1": 20, "2": 10, "3-4": 20}


def test_sessions_are_used_again_when_there_are_too_few() -> None:
    drawn = sample_prefixes(np.array([9, 9]), NOBODY[:2], 20, typical_share=0.0, seed=1)
    assert len(drawn) == 10


def test_every_prefix_is_asked_about_when_the_calls_suffice() -> None:
    assert sample_prefixes(np.array([3, 1, 2]), NOBODY[:3], 6, typical_share=0.5, seed=1) == [(0, 1), (0, 2), (2, 1)]


def test_typical_sessions_are_those_nearest_to_the_centres() -> None:
    """Two tastes, a rare one among them: both are asked about, and sessions without a prefix never."""
    angles = np.random.default_rng(1).normal(0, 0.03, 200) + np.where(np.arange(200) < 4, 0, np.pi / 2)
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    lengths = np.array([3] * 4 + [3] * 100 + [1] * 96)
    drawn = sample_prefixes(lengths, features, 4, typical_share=1.0, seed=1)
    assert len(drawn) == 2
    assert sum(session < 4 for session, _ in drawn) == 1
    assert all(session < 104 for session, _ in drawn)


def test_a_budget_for_no_prefix_is_refused() -> None:
    with pytest.raises(KnowledgeError, match="1 calls and 2 prefixes, expected 2 calls"):
        sample_prefixes(np.array([3]), NOBODY[:1], 1, typical_share=0.0, seed=1)


def test_shares_sum_to_what_is_shared() -> None:
    assert shares(np.array([1, 1, 2]), 5).tolist() == [1, 1, 3]  # 1.25, 1.25, 2.5
    assert shares(np.array([3, 0]), 4).tolist() == [4, 0]
