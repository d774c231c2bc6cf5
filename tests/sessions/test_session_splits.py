"""Whole sessions in one part each, their prefixes, and nothing held out in training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.data.dataset import Dataset, dataset_from_tables
from models.data.held_out import EvalCases, Split
from models.data.sequences import Sequences
from models.data.session_splits import declared_sessions, newest_sessions, shuffled_sessions, split_sessions
from models.errors import DatasetError
from models.sessions.prefixes import SessionPrefixes


def _set(sessions: list[list[str]], parts: list[str] | None = None, ends: list[int] | None = None) -> Dataset:
    rows = [
        {
            "user_id": f"s{number:03}",
            "item_id": item,
            "position": at,
            **({"split": parts[number]} if parts else {}),
            **({"timestamp": ends[number] - len(items) + 1 + at} if ends else {}),
        }
        for number, items in enumerate(sessions)
        for at, item in enumerate(items)
    ]
    return dataset_from_tables("toy", pa.Table.from_pylist(rows), None)


def _told(cases: EvalCases) -> list[tuple[int, list[int], int]]:
    return [
        (int(cases.user_index[row]), cases.inputs[row].tolist(), int(cases.targets[row])) for row in range(len(cases))
    ]


def test_every_prefix_of_a_held_out_session_asks_for_its_next_click() -> None:
    dataset = _set([["a", "b"], ["b", "c", "b", "a"], ["c", "a", "b"]], ["train", "test", "valid"])
    split = declared_sessions(dataset)
    assert [row.tolist() for row in split.train] == [[1, 2], [], []]
    assert _told(split.test) == [(1, [2], 3), (1, [2, 3], 2), (1, [2, 3, 2], 1)]
    assert _told(split.valid) == [(2, [3], 1), (2, [3, 1], 2)]


def test_without_a_declared_validation_some_training_sessions_validate() -> None:
    dataset = _set([["a", "b", "c"]] * 40 + [["a", "c"]] * 10, ["train"] * 40 + ["test"] * 10)
    split = declared_sessions(dataset)
    assert len(split.valid) == 2 * 2  # 5 % of 40 sessions, two prefixes each
    assert set(split.valid.user_index) <= set(range(40))
    assert np.flatnonzero(split.train.lengths).tolist() == sorted(set(range(40)) - set(split.valid.user_index))
    assert sorted(set(split.test.user_index)) == list(range(40, 50))


def test_a_session_in_two_parts_is_refused_by_name() -> None:
    rows = [
        {"user_id": "s0", "item_id": "a", "position": 0, "split": "train"},
        {"user_id": "s0", "item_id": "b", "position": 1, "split": "test"},
    ]
    dataset = dataset_from_tables("toy", pa.Table.from_pylist(rows), None)
    with pytest.raises(DatasetError, match="session 's0' is in two parts"):
        declared_sessions(dataset)


def test_other_words_than_the_three_parts_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"holds \['dev'\]"):
        declared_sessions(_set([["a", "b"], ["a", "b"]], ["train", "dev"]))


def test_the_sessions_that_ended_last_test() -> None:
    dataset = _set([["a", "b"]] * 10, ends=[100, 10, 90, 20, 80, 30, 70, 40, 60, 50])
    split = newest_sessions(dataset)
    assert split.test.user_index.tolist() == [0]
    assert split.valid.user_index.tolist() == [2]
    assert split.train.lengths.tolist() == [0, 2, 0, 2, 2, 2, 2, 2, 2, 2]


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(DatasetError, match="leaves no session of two clicks to valid"):
        split_sessions(_set([["a", "b"], ["a", "b"]]), "own", np.array([0, 2]))


@pytest.mark.parametrize("make", [shuffled_sessions, newest_sessions, declared_sessions])
def test_no_session_stands_in_two_parts_and_training_sees_no_held_out_click(make: Callable[[Dataset], Split]) -> None:
    rng = np.random.default_rng(1)
    # Every session has an item of its own, so a click of it found in training would be a leak.
    sessions = [[f"own{number}", *rng.choice(list("abcdef"), rng.integers(1, 5))] for number in range(60)]
    parts = [("train", "train", "test")[number % 3] for number in range(60)]
    dataset = _set(sessions, parts, ends=list(range(1000, 1060)))
    split = make(dataset)
    trained = set(np.flatnonzero(split.train.lengths).tolist())
    valid, test = set(split.valid.user_index.tolist()), set(split.test.user_index.tolist())
    assert min(len(trained), len(valid), len(test)) > 0
    assert sorted([*trained, *valid, *test]) == list(range(60))
    prefixes = SessionPrefixes(split.train, 50, torch.device("cpu"))
    seen = set(prefixes.sessions.tolist())
    assert seen <= trained
    own = {dataset.item_ids.index(f"own{number}") + 1: number for number in range(60)}
    assert {own[item] for item in split.train.items.tolist() if item in own} == trained


# --- prefixes ---------------------------------------------------------------------------------------------------------


def _prefixes(max_seq_len: int = 3) -> SessionPrefixes:
    train = Sequences.from_lists([[1, 2, 3, 4, 5], [6], [], [7, 8]])
    return SessionPrefixes(train, max_seq_len, torch.device("cpu"))


def test_a_session_of_n_clicks_has_a_prefix_before_each_but_the_first() -> None:
    prefixes = _prefixes()
    assert len(prefixes) == 5
    assert prefixes.sessions.tolist() == [0, 0, 0, 0, 3]
    assert prefixes.cuts.tolist() == [1, 2, 3, 4, 1]
    batch = prefixes.batch(torch.tensor([4, 1, 3]))
    assert batch.item_seq.tolist() == [[0, 0, 7], [0, 1, 2], [2, 3, 4]]  # the newest three
    assert batch.seq_len.tolist() == [1, 2, 3]
    assert batch.targets.tolist() == [8, 3, 5]
    assert batch.sessions.tolist() == [3, 0, 0]


def test_an_epoch_has_every_prefix_once_and_counts_its_batches() -> None:
    prefixes = _prefixes()
    batches = list(prefixes.epoch(2, torch.Generator().manual_seed(0)))
    assert len(batches) == prefixes.n_batches(2) == 3
    assert sorted(torch.cat([batch.prefixes for batch in batches]).tolist()) == [0, 1, 2, 3, 4]


def test_prefixes_that_are_not_kept_are_not_trained_on() -> None:
    train = Sequences.from_lists([[1, 2, 3], [4, 5]])
    prefixes = SessionPrefixes(train, 5, torch.device("cpu"), keep=np.array([True, False, True]))
    batches = list(prefixes.epoch(8, torch.Generator().manual_seed(0)))
    assert sorted(torch.cat([batch.prefixes for batch in batches]).tolist()) == [0, 2]
    assert len(prefixes) == 3
