"""Which answers teach, validate and are held back: users are never on two sides."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from models.data.dataset import Dataset, read_dataset
from models.data.splits import SPLITS, Split
from models.errors import ConfigError
from models.knowledge.intents import IntentKnowledge, load_intents
from models.sessions.answered import AnsweredSplit, prefix_numbers, split_answered
from models.sessions.prefixes import SessionPrefixes


@pytest.fixture(scope="module")
def dataset(tours: Path) -> Dataset:
    return read_dataset(tours)


@pytest.fixture(scope="module")
def split(dataset: Dataset) -> Split:
    return SPLITS["shuffled_sessions"](dataset)


@pytest.fixture(scope="module")
def knowledge(tour_intents: Path, dataset: Dataset) -> IntentKnowledge:
    return load_intents(tour_intents, dataset)


@pytest.fixture(scope="module")
def parts(knowledge: IntentKnowledge, dataset: Dataset, split: Split) -> AnsweredSplit:
    return split_answered(knowledge, dataset, split, seed=5)


def test_answered_users_are_in_one_part_each_and_test_users_in_none(
    parts: AnsweredSplit, knowledge: IntentKnowledge, split: Split
) -> None:
    taught, valid, back = (
        set(knowledge.users[rows].tolist()) for rows in (parts.taught, parts.validating, parts.held_back)
    )
    test = set(split.test.user_index.tolist())
    assert not taught & valid
    assert not taught & back
    assert not valid & back
    assert not (taught | valid | back) & test
    assert set(knowledge.users.tolist()) & test  # and the check sees answered test users at all
    answered = len(set(knowledge.users.tolist()) - test)
    assert len(valid) == max(round(0.1 * answered), 2)
    assert len(taught) == answered - len(valid) - round(0.2 * answered)


def test_users_that_are_held_back_or_validate_train_no_click(
    parts: AnsweredSplit, knowledge: IntentKnowledge, split: Split
) -> None:
    out = knowledge.users[np.concatenate([parts.held_back, parts.validating])]
    assert (parts.split.train.lengths[out] == 0).all()
    assert (parts.split.train.lengths[knowledge.users[parts.taught]] > 0).all()
    assert set(knowledge.users[parts.validating].tolist()) <= set(parts.split.valid.user_index.tolist())
    assert not set(knowledge.users[parts.held_back].tolist()) & set(parts.split.valid.user_index.tolist())
    assert parts.split.test is split.test


def test_a_prefix_before_the_second_last_click_asks_for_no_click(
    parts: AnsweredSplit, knowledge: IntentKnowledge, dataset: Dataset
) -> None:
    before = knowledge.cuts == dataset.sequences.lengths[knowledge.users] - 2
    assert before[parts.not_targets].all()
    assert set(parts.not_targets.tolist()) == set(parts.taught[before[parts.taught]].tolist()) != set()
    assert not before[parts.held_back].any()
    assert len(parts.held_back)


def test_prefixes_are_found_among_those_that_train(
    parts: AnsweredSplit, knowledge: IntentKnowledge, dataset: Dataset
) -> None:
    import torch

    rows = parts.taught[:6]
    numbers = prefix_numbers(parts.split.train.lengths, knowledge.users[rows], knowledge.cuts[rows])
    batch = SessionPrefixes(parts.split.train, 50, torch.device("cpu")).batch(torch.from_numpy(numbers))
    for row, items, length in zip(rows.tolist(), batch.item_seq.tolist(), batch.seq_len.tolist(), strict=True):
        expected = dataset.sequences[int(knowledge.users[row])][: knowledge.cuts[row]].tolist()
        assert items[len(items) - length :] == expected


def test_the_division_is_by_seed(
    parts: AnsweredSplit, knowledge: IntentKnowledge, dataset: Dataset, split: Split
) -> None:
    again, other = (split_answered(knowledge, dataset, split, seed) for seed in (5, 6))
    assert again.taught.tolist() == parts.taught.tolist()
    assert sorted(other.held_back.tolist()) != sorted(parts.held_back.tolist())


def test_answers_about_parts_of_a_row_and_too_few_of_them_are_refused(
    knowledge: IntentKnowledge, dataset: Dataset, split: Split
) -> None:
    sessions = dataclasses.replace(knowledge, session_ids=np.full(len(knowledge), "s1"))
    with pytest.raises(ConfigError, match="one session a row"):
        split_answered(sessions, dataset, split, seed=5)
    two = dataclasses.replace(knowledge, users=knowledge.users[:2], session_ids=knowledge.session_ids[:2])
    with pytest.raises(ConfigError, match="expected some to teach"):
        split_answered(two, dataset, split, seed=5)
