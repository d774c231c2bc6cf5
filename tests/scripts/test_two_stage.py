from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from models.ranker_examples import Requests

SCRIPT = Path(__file__).parents[2] / "scripts" / "two_stage.py"


@pytest.fixture(scope="module")
def two_stage() -> ModuleType:
    spec = importlib.util.spec_from_file_location("two_stage", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _moments(scenarios: list[int], seq_len: list[int], taken: list[int]) -> Requests:
    n = len(scenarios)
    ones = np.ones((n, 1), np.int64)
    labels = np.array(taken, np.int8)[:, None]
    return Requests(np.arange(n), np.array(scenarios), ones, np.array(seq_len), ones, labels)


def test_only_moments_with_a_history_and_something_taken_are_asked_about(two_stage: ModuleType) -> None:
    test = _moments(scenarios=[0, 0, 0, 1, 0], seq_len=[1, 0, 1, 1, 1], taken=[1, 1, 0, 1, 1])
    assert two_stage.moments_of(test, 0, limit=10).tolist() == [0, 4]


def test_a_limit_draws_among_all_moments(two_stage: ModuleType) -> None:
    n = 1000
    rows = two_stage.moments_of(_moments([0] * n, [1] * n, [1] * n), 0, limit=50)
    assert len(set(rows.tolist())) == 50
    assert rows.max() > 500
    assert (np.diff(rows) > 0).all()


def test_what_was_taken_and_is_not_in_the_list_counts_as_missed(two_stage: ModuleType) -> None:
    # First place: 1. Second of one: 1 / log2(3). One of two found, in first place: 1 / (1 + 1 / log2(3)).
    found = two_stage._ndcg([["a", "b"], ["a", "b"], ["a", "b"], ["a"]], [{"a"}, {"b"}, {"a", "z"}, {"z"}])
    second = 1 / np.log2(3)
    assert found.tolist() == pytest.approx([1.0, second, 1 / (1 + second), 0.0])


def test_items_of_other_shops_leave_the_lists_and_the_others_move_up(two_stage: ModuleType) -> None:
    assert two_stage._only([["a", "x", "b"], ["x"]], {"a", "b"}) == [["a", "b"], []]
    assert two_stage._only([["a", "x"]], None) == [["a", "x"]]
