from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data.filters import filter_tables, k_core, single_pass
from models.data.folder import Tables
from models.errors import DatasetError

# u0 has i0 i1 i2, u1 has i0 i1, u2 has i2 and u3 has i1. Two each: the first pass drops u2 and u3, which leaves i2 with
# one row, so the second pass drops (u0, i2); then u0 and u1 both have i0 and i1.
USERS = np.array([0, 0, 0, 1, 1, 2, 3])
ITEMS = np.array([0, 1, 2, 0, 1, 2, 1])


def test_a_single_pass_counts_once() -> None:
    assert single_pass(USERS, ITEMS, 2, 2).tolist() == [True, True, True, True, True, False, False]


def test_a_core_is_passed_until_nothing_changes() -> None:
    assert k_core(USERS, ITEMS, 2, 2).tolist() == [True, True, False, True, True, False, False]


def test_thresholds_of_users_and_items_are_separate() -> None:
    assert k_core(USERS, ITEMS, 3, 1).tolist() == [True, True, True, False, False, False, False]
    assert k_core(USERS, ITEMS, 1, 3).tolist() == [False, True, False, False, True, False, True]


def test_a_pair_that_occurs_twice_counts_twice() -> None:
    assert k_core(np.array([0, 0]), np.array([0, 0]), 2, 2).all()


ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=30)
CORE = st.integers(1, 4)


@given(ROWS, CORE, CORE)
def test_a_core_is_the_largest_set_where_everybody_has_enough(
    rows: list[tuple[int, int]], user_core: int, item_core: int
) -> None:
    columns = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    kept = k_core(columns[0], columns[1], user_core, item_core).tolist()

    # The slow way: take out one bad row at a time; the order cannot matter, because the largest set is unique.
    left = list(rows)
    while True:
        users, items = Counter(user for user, _ in left), Counter(item for _, item in left)
        bad = [row for row in left if users[row[0]] < user_core or items[row[1]] < item_core]
        if not bad:
            break
        left.remove(bad[0])
    assert sorted(row for row, keep in zip(rows, kept, strict=True) if keep) == sorted(left)


@given(ROWS, CORE)
def test_filtering_a_core_again_changes_nothing(rows: list[tuple[int, int]], core: int) -> None:
    columns = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    kept = k_core(columns[0], columns[1], core, core)
    assert single_pass(columns[0][kept], columns[1][kept], core, core).all()
    assert not (kept & ~single_pass(columns[0], columns[1], core, core)).any()


def test_items_and_users_go_with_their_last_interaction() -> None:
    interactions = pa.table({"user_id": USERS, "item_id": [f"i{item}" for item in ITEMS], "position": list(range(7))})
    items = pa.table({"item_id": ["i0", "i1", "i2", "never"], "title": ["a", "b", "c", "d"]})
    users = pa.table({"user_id": ["0", "1", "2", "3"], "age": [1, 2, 3, 4]})  # strings here, integers there
    shown = pa.table({"user_id": [0, 0, 2], "item_id": ["i0", "i2", "i0"], "label": [1, 0, 1]})
    kept = filter_tables(Tables(interactions, items, users, shown), 2, 2)

    assert kept.interactions.column("position").to_pylist() == [0, 1, 3, 4]
    assert kept.items is not None
    assert kept.items.column("title").to_pylist() == ["a", "b"]
    assert kept.users is not None
    assert kept.users.column("age").to_pylist() == [1, 2]
    assert kept.impressions is not None
    assert kept.impressions.to_pylist() == [{"user_id": 0, "item_id": "i0", "label": 1}]

    once = filter_tables(Tables(interactions, None, None, None), 2, 2, iterate=False)
    assert once.interactions.num_rows == 5


def test_a_filter_that_leaves_nothing_is_an_error() -> None:
    tables = Tables(pa.table({"user_id": USERS, "item_id": ITEMS}), None, None, None)
    with pytest.raises(DatasetError, match="no interaction of 7 is left by a filter of 9 per user and 1 per item"):
        filter_tables(tables, 9, 1)
