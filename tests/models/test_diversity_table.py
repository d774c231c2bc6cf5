from __future__ import annotations

import numpy as np
import pytest

from models.data.sequences import Sequences
from models.data.splits import EvalCases
from models.diversity_table import _ranks_within, _variety


def cases(targets: list[int], n_targets: list[int] | None) -> EvalCases:
    n = len(targets) if n_targets is None else len(n_targets)
    inputs = Sequences.from_lengths(np.ones(n, np.int64), np.ones(n, np.int64))
    counts = None if n_targets is None else np.array(n_targets)
    return EvalCases(np.arange(n), inputs, np.array(targets), None, counts)


def test_a_target_has_its_place_in_the_list_or_none() -> None:
    lists = np.array([[4, 2, 7], [1, 2, 3]])
    assert _ranks_within(lists, cases([2, 9], None)).tolist() == [1, 3]
    assert _ranks_within(lists, cases([7, 5, 1], [2, 1])).tolist() == [2, 3, 0]


def test_variety_by_hand() -> None:
    categories = ["", "a", "a", "b", "c", ""]
    # a a b b: 1 bit, 2 categories; a c and one item without: 1 bit, 2; all four items of 5 are shown but item 2.
    found = _variety(np.array([[1, 1, 3, 3], [1, 4, 5, 0]]), categories)
    assert found == pytest.approx({"category_entropy": 1, "categories": 2, "catalogue_share": 4 / 5})
    # a a b c: 1.5 bits. A list without any category has none.
    found = _variety(np.array([[1, 2, 3, 4], [5, 0, 0, 0]]), categories)
    assert found == pytest.approx({"category_entropy": 0.75, "categories": 1.5, "catalogue_share": 1})
