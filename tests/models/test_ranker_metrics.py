from __future__ import annotations

import math

import numpy as np
import pytest

from models.ranker_metrics import WeightedAUC, auc, entry_losses, gauc, grouped_auc, logloss


def test_auc_is_the_share_of_pairs_in_order_and_ties_count_half() -> None:
    scores = np.array([0.1, 0.4, 0.4, 0.8])
    labels = np.array([0, 1, 0, 1])
    # pairs: (.4, .1) right, (.4, .4) tie, (.8, .1) right, (.8, .4) right
    assert auc(scores, labels) == pytest.approx(3.5 / 4)


def test_auc_needs_both_classes() -> None:
    assert math.isnan(auc(np.array([0.3, 0.2]), np.array([1, 1])))
    assert math.isnan(auc(np.empty(0), np.empty(0, np.int64)))


def test_weights_count_an_entry_several_times() -> None:
    scores, labels = np.array([0.1, 0.4, 0.4, 0.8, 0.9]), np.array([0, 1, 0, 1, 0])
    weights = np.array([2.0, 1.0, 0.0, 3.0, 1.0])
    repeated = np.repeat(np.arange(5), weights.astype(int))
    assert WeightedAUC(scores, labels)(weights) == pytest.approx(auc(scores[repeated], labels[repeated]))


def test_gauc_weighs_each_users_auc_by_their_entries_and_leaves_out_who_has_one_class() -> None:
    users = np.array([7, 7, 7, 9, 9, 3, 3])
    scores = np.array([0.9, 0.1, 0.5, 0.2, 0.6, 0.5, 0.4])
    labels = np.array([1, 0, 1, 1, 0, 1, 1])
    # user 7: both positives above the negative, 1.0 of 3 entries; user 9: 0.0 of 2; user 3 has no negative
    assert gauc(scores, labels, users) == pytest.approx(3 / 5)
    groups, values, sizes = grouped_auc(scores, labels, users)
    assert groups.tolist() == [7, 9]
    assert values.tolist() == [1.0, 0.0]
    assert sizes.tolist() == [3, 2]


def test_grouped_auc_agrees_with_auc_of_each_group() -> None:
    rng = np.random.default_rng(0)
    users, scores, labels = rng.integers(0, 9, 300), rng.integers(0, 6, 300) / 5, rng.integers(0, 2, 300)
    groups, values, _ = grouped_auc(scores, labels, users)
    assert values.tolist() == pytest.approx([auc(scores[users == g], labels[users == g]) for g in groups])


def test_logloss_is_minus_the_log_of_what_the_sigmoid_gives_the_label() -> None:
    logits, labels = np.array([0.0, math.log(3.0), -1000.0]), np.array([1, 0, 0])
    assert entry_losses(logits, labels).tolist() == pytest.approx([math.log(2), math.log(4), 0.0])
    assert logloss(logits, labels) == pytest.approx(math.log(8) / 3)
