from __future__ import annotations

import math

import numpy as np
import pytest

from models.metrics import (
    by_group,
    case_values,
    metrics_of,
    paired_bootstrap,
    relative_bootstrap,
    tail_items,
    tail_user_threshold,
)


def test_metrics_of_ranks_worked_by_hand() -> None:
    # Ranks 0, 2, 7 and 30: at 5 two hits, at 10 three, at 20 three.
    found = metrics_of(np.array([0, 2, 7, 30]))
    assert found["hr@5"] == 0.5
    assert found["hr@10"] == 0.75
    assert found["ndcg@5"] == pytest.approx((1 + 1 / math.log2(4)) / 4)
    assert found["ndcg@10"] == pytest.approx((1 + 1 / math.log2(4) + 1 / math.log2(9)) / 4)
    assert found["mrr@10"] == pytest.approx((1 + 1 / 3 + 1 / 8) / 4)


def test_an_empty_group_is_not_a_number() -> None:
    assert math.isnan(metrics_of(np.array([], dtype=np.int64))["hr@10"])


def test_tail_items_are_the_four_fifths_with_the_fewest_interactions_ties_by_item_id() -> None:
    # Ten items, eight are tail; of the three with count 5, items 1, 4 and 9, the first goes to the tail.
    popularity = np.array([0, 5, 1, 2, 5, 0, 3, 3, 2, 5, 1])
    assert np.flatnonzero(~tail_items(popularity)).tolist() == [0, 4, 9]


def test_tail_users_are_below_the_80th_percentile_of_training_lengths() -> None:
    assert tail_user_threshold(np.array([1, 1, 2, 2, 3, 3, 4, 4, 5, 10, 20])) == 5


def test_groups_carry_their_sizes() -> None:
    groups = by_group(np.array([0, 99]), {"tail_item": np.array([True, False])})
    assert groups["overall"]["n"] == 2
    assert groups["tail_item"] == {"n": 1, **metrics_of(np.array([0]))}


def test_a_paired_bootstrap_of_equal_systems_holds_zero_and_of_a_better_one_does_not() -> None:
    rng = np.random.default_rng(0)
    hits = rng.random(400)
    mean, low, high = paired_bootstrap(hits, hits + rng.normal(0, 0.1, 400), seed=1, n_draws=200)
    assert low <= 0 <= high
    mean, low, high = paired_bootstrap(hits + 0.5, hits, seed=1, n_draws=200)
    assert mean == pytest.approx(0.5)
    assert low > 0


def test_several_targets_of_a_case_are_told_by_recall_any_hit_and_true_ndcg() -> None:
    # Case 0 has targets at ranks 0 and 30, case 1 one at rank 3 (0-based).
    ranks, rows = np.array([0, 30, 3]), np.array([0, 0, 1])
    assert case_values("recall@20", ranks, rows).tolist() == [0.5, 1.0]
    assert case_values("recall@50", ranks, rows).tolist() == [1.0, 1.0]
    assert case_values("hr@20", ranks, rows).tolist() == [1.0, 1.0]
    # Two targets could have stood first and second: 1 of 1 + 1 / log2(3). One target: by its place alone.
    first = 1 / (1 + 1 / np.log2(3))
    np.testing.assert_allclose(case_values("ndcg@20", ranks, rows), [first, 1 / np.log2(5)])
    # The ideal has no more places than k.
    assert case_values("ndcg@1", ranks, rows).tolist() == [1.0, 0.0]
    assert metrics_of(ranks, rows=rows)["recall@20"] == 0.75


def test_a_group_of_targets_counts_the_cases_that_have_one() -> None:
    ranks, rows = np.array([0, 30, 3]), np.array([0, 0, 1])
    found = by_group(ranks, {"late": np.array([False, True, False])}, rows)
    assert found["overall"]["n"] == 2
    assert found["late"]["n"] == 1
    assert found["late"]["recall@50"] == 1.0
    assert found["late"]["recall@20"] == 0.0


def test_cases_of_one_owner_are_drawn_or_left_together() -> None:
    # Two owners: one gains 1 in each of its nine cases, one loses 1 in its only case. Drawn by owner the gain is 1, 0.8
    # (by cases), or -1; drawn by case it would never come near -1.
    gain = np.array([1.0] * 9 + [-1.0])
    owners = np.array([4] * 9 + [7])
    mean, low, high = paired_bootstrap(gain, np.zeros(10), seed=0, n_draws=500, owners=owners)
    assert (mean, low, high) == pytest.approx((0.8, -1.0, 1.0))
    relative, low, high = relative_bootstrap(gain + 2, np.full(10, 2.0), seed=0, owners=owners)
    assert (relative, low, high) == pytest.approx((0.4, -0.5, 0.5))


def test_owners_of_one_case_each_change_nothing() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = rng.random(50), rng.random(50)
    alone = relative_bootstrap(ours, theirs, seed=1, n_draws=50)
    assert relative_bootstrap(ours, theirs, seed=1, n_draws=50, owners=np.arange(50)) == pytest.approx(alone)
