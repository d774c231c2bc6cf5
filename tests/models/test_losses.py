from __future__ import annotations

import math

import pytest
import torch

from models.config import LossConfig
from models.losses import NegativeItems, Negatives, SeenItems, distillation_loss, ranking_loss

# One dimension, three items: scores are states x table.
TABLE = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
EVENLY = NegativeItems("uniform", torch.tensor([0, 1, 1, 1]))
NONE = Negatives(torch.tensor([], dtype=torch.int64), torch.tensor([]))
SEEN = SeenItems(torch.tensor([0, 0, 1]), torch.tensor([1, 2, 3]), n_rows=4)


def test_seen_items_answers_for_whole_tensors() -> None:
    users = torch.tensor([[0], [1]])
    found = SEEN.contains(users, torch.tensor([[1, 2, 3], [1, 2, 3]]))
    assert found.tolist() == [[True, True, False], [False, False, True]]


def test_bce_never_draws_an_item_of_the_users_training_sequence() -> None:
    # User 0 has items 1 (score 1) and 2 (score 100); the ten others score 3: -log sigmoid(1) - log(1 - sigmoid(3)).
    torch.manual_seed(0)
    table = torch.tensor([[0.0], [1.0], [100.0], *[[3.0]] * 10])
    seen = SeenItems(torch.tensor([0, 0]), torch.tensor([1, 2]), n_rows=13)
    config = LossConfig(kind="bce", n_negatives=200)
    loss = ranking_loss(config, torch.tensor([[1.0]]), torch.tensor([1]), torch.tensor([0]), table, seen, NONE)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1)) + math.log1p(math.exp(3)), abs=1e-5)


def test_sampled_softmax_leaves_the_target_out_of_its_negatives() -> None:
    # With one item in the catalogue every negative is the target, so nothing competes and the loss is 0.
    config = LossConfig(kind="sampled_softmax", n_negatives=4)
    loss = ranking_loss(
        config,
        torch.tensor([[1.0]]),
        torch.tensor([1]),
        torch.tensor([0]),
        TABLE[:2],
        SEEN,
        Negatives(torch.ones(4, dtype=torch.int64), torch.zeros(4)),
    )
    assert loss.item() == pytest.approx(0.0, abs=1e-6)


def test_sampled_softmax_prefers_the_target() -> None:
    torch.manual_seed(0)
    config = LossConfig(kind="sampled_softmax", n_negatives=64)
    users = torch.tensor([0])
    negatives = EVENLY.draw(64)
    good = ranking_loss(config, torch.tensor([[2.0]]), torch.tensor([3]), users, TABLE, SEEN, negatives)
    bad = ranking_loss(config, torch.tensor([[-2.0]]), torch.tensor([3]), users, TABLE, SEEN, negatives)
    assert good < bad


def test_distillation_is_the_squared_distance_to_the_mean_of_teachers_with_a_history() -> None:
    students = torch.tensor([[1.0, 1.0], [5.0, 5.0]], requires_grad=True)
    teachers = torch.tensor([[[0.0, 0.0], [2.0, 4.0], [9.0, 9.0]], [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]])
    weights = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    # First student: mean teacher (1, 2), squared distances 0 and 1, mean 0.5. The second has no teacher.
    loss = distillation_loss(students, teachers, weights)
    assert loss.item() == pytest.approx(0.5)
    loss.backward()
    assert students.grad is not None
    assert students.grad[1].tolist() == [0.0, 0.0]


def test_popular_negatives_are_drawn_by_training_interactions_and_never_padding_or_an_untrained_item() -> None:
    torch.manual_seed(0)
    items, log_q = NegativeItems("popular", torch.tensor([0, 3, 0, 1])).draw(4000)
    counts = torch.bincount(items, minlength=4).tolist()
    assert counts[0] == counts[2] == 0
    assert counts[1] / 4000 == pytest.approx(0.75, abs=0.03)
    assert log_q[items == 3].exp().unique().tolist() == pytest.approx([0.25])


def test_the_logq_correction_makes_the_sample_stand_for_the_catalogue() -> None:
    # Target 3 scores 3; the others score 1 and 2: the whole sum is e^1 + e^2 + e^3, whoever was drawn how often.
    torch.manual_seed(0)
    states, targets, users = torch.tensor([[1.0]]), torch.tensor([3]), torch.tensor([0])
    full = ranking_loss(LossConfig(kind="full_softmax"), states, targets, users, TABLE, SEEN, NONE)
    assert full.item() == pytest.approx(math.log(math.exp(1) + math.exp(2) + math.exp(3)) - 3)
    corrected = LossConfig(kind="sampled_softmax", n_negatives=100_000, log_q=True)
    for drawn in ([0, 1, 1, 1], [0, 6, 1, 3]):
        negatives = NegativeItems("popular", torch.tensor(drawn)).draw(100_000)
        loss = ranking_loss(corrected, states, targets, users, TABLE, SEEN, negatives)
        assert loss.item() == pytest.approx(full.item(), abs=0.01)
