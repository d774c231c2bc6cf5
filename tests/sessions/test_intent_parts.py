"""Alignment and uniformity, gates and sources of intents, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from models.sessions.intents import (
    DistilledIntents,
    Gate,
    LocalisedIntents,
    StandInIntents,
    Views,
    alignment_uniformity,
    distillation,
)


def test_alignment_and_uniformity_of_three_vectors() -> None:
    left = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    right = torch.tensor([[5.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    # Directions: (1,0) (0,1) (1,0) and (1,0) (1,0) (0,1). Squared distances of pairs: 0, 2, 2.
    # Within each side one pair is equal and two are at squared distance 2.
    expected = 4 / 3 + math.log((1 + 2 * math.exp(-4)) / 3)
    assert alignment_uniformity(left, right).item() == pytest.approx(expected, abs=1e-6)


def test_parallel_vectors_are_aligned() -> None:
    left = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    uniform = alignment_uniformity(left, left * 7)
    assert uniform.item() == pytest.approx(-4, abs=1e-5)  # log exp(-2 * 2), and nothing of alignment


def test_a_gate_weighs_the_sigmoid_of_behaviour_and_intent() -> None:
    gate = Gate(2)
    with torch.no_grad():
        gate.weights.copy_(torch.tensor([[0.5], [2.0]]))
    behaviour, intent = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, math.log(3) - 1]])
    assert gate(behaviour, intent).item() == pytest.approx(0.5 * 0.5 + 2 * 0.75)


def test_a_gate_starts_at_one_and_may_leave_that_range() -> None:
    assert Gate(8)(torch.zeros(1, 8), torch.zeros(1, 8)).item() == pytest.approx(1)
    assert Gate(8)(torch.full((1, 8), 9.0), torch.zeros(1, 8)).item() == pytest.approx(2, abs=1e-2)


def test_learning_an_answer_moves_the_learner_alone() -> None:
    predicted, said = torch.tensor([[3.0, 4.0]], requires_grad=True), torch.tensor([[4.0, 3.0]], requires_grad=True)
    loss = distillation(predicted, said)
    assert loss.item() == pytest.approx((1 - 24 / 25) + 1)
    loss.backward()
    assert predicted.grad is not None
    assert said.grad is None
    assert distillation(predicted, predicted.detach()).item() == pytest.approx(0, abs=1e-6)


def test_localised_intents_are_the_newest_title_and_a_mean_of_titles() -> None:
    source = LocalisedIntents(2)
    torch.nn.init.zeros_(source.ask.weight)
    torch.nn.init.zeros_(source.ask.bias)
    titles = torch.tensor([[[9.0, 9.0], [1.0, 0.0], [0.0, 3.0]]])
    behaviour = Views(torch.ones(1, 2), torch.ones(1, 2))
    found = source(behaviour, titles, torch.tensor([[False, True, True]]))
    torch.testing.assert_close(found.long, torch.tensor([[0.5, 1.5]]))  # asked nothing, every click weighs the same
    torch.testing.assert_close(found.short, torch.tensor([[0.0, 3.0]]))
    with torch.no_grad():
        source.ask.bias.copy_(torch.tensor([0.0, 50.0]))
    found = source(behaviour, titles, torch.tensor([[False, True, True]]))
    torch.testing.assert_close(found.long, torch.tensor([[0.0, 3.0]]))  # asked for the second direction


def test_a_stand_in_has_the_direction_of_behaviour_and_the_length_of_answers() -> None:
    source = StandInIntents(momentum=0.5)
    source.watch(Views(torch.tensor([[3.0, 4.0], [0.0, 3.0]]), torch.tensor([[0.0, 9.0]])))
    torch.testing.assert_close(source.lengths, torch.tensor([2.5, 5.0]))  # half of 1, half of 4 and of 9
    found = source(Views(torch.tensor([[0.0, 0.1]]), torch.tensor([[-6.0, 0.0]])), None, torch.ones(1, 1).bool())
    torch.testing.assert_close(found.long, torch.tensor([[0.0, 2.5]]))
    torch.testing.assert_close(found.short, torch.tensor([[-5.0, 0.0]]))


def test_distilled_intents_read_both_views() -> None:
    torch.manual_seed(1)
    source = DistilledIntents(4)
    long, short, other = torch.randn(1, 4), torch.randn(1, 4), torch.randn(1, 4)
    mask = torch.ones(1, 1, dtype=torch.bool)
    found, changed = source(Views(long, short), None, mask), source(Views(long, other), None, mask)
    assert not torch.equal(found.long, changed.long)
    assert not torch.equal(found.short, changed.short)
