"""Sessions cut from users' logs, by hand."""

from __future__ import annotations

import pyarrow as pa
import pytest

from models.data.folder import Tables
from models.data.sessions import cut_sessions
from models.errors import DatasetError


def _tables(rows: list[tuple[int, str, int, str]]) -> Tables:
    users, items, times, splits = zip(*rows, strict=True)
    table = pa.table({"user_id": users, "item_id": items, "timestamp": pa.array(times), "split": splits})
    return Tables(table, pa.table({"item_id": ["a", "b", "c"], "title": ["A", "B", "C"]}), None, None)


ROWS = [
    (1, "b", 1199, "train"),  # the bin from 600 to 1199
    (1, "a", 600, "train"),
    (1, "a", 1200, "train"),  # the next bin, a second later
    (1, "b", 1300, "test"),
    (2, "a", 1250, "train"),  # the same bin, another user
    (2, "b", 1250, "train"),  # the same second: file order
    (2, "c", 9000, "test"),  # alone
]


def test_a_session_is_what_one_user_did_in_one_bin() -> None:
    cut = cut_sessions(_tables(ROWS), minutes=10, item_core=1)
    rows = cut.interactions.select(["session_id", "user_id", "item_id", "position"]).to_pylist()
    assert [(row["session_id"], row["item_id"], row["position"]) for row in rows] == [
        ("1@1", "a", 0),
        ("1@1", "b", 1),
        ("1@2", "a", 0),
        ("1@2", "b", 1),
        ("2@2", "a", 0),
        ("2@2", "b", 1),
    ]
    assert all(row["user_id"] == row["session_id"] for row in rows)
    assert cut.items is not None
    assert cut.items.column("item_id").to_pylist() == ["a", "b"]  # c had its only click alone in a session


def test_a_session_that_reaches_into_the_test_period_is_a_test_session() -> None:
    cut = cut_sessions(_tables(ROWS), minutes=10, item_core=1)
    told = dict(zip(*(cut.interactions.column(name).to_pylist() for name in ("session_id", "split")), strict=True))
    assert told == {"1@1": "train", "1@2": "test", "2@2": "train"}
    assert cut.interactions.column("split").to_pylist()[2:4] == ["test", "test"]


def test_rare_items_go_and_sessions_that_become_too_short_with_them() -> None:
    cut = cut_sessions(_tables([*ROWS, (3, "a", 0, "train"), (3, "c", 1, "train")]), minutes=10, item_core=3)
    assert sorted(set(cut.interactions.column("session_id").to_pylist())) == ["1@1", "1@2", "2@2"]


def test_events_without_a_time_are_refused() -> None:
    with pytest.raises(DatasetError, match="'timestamp' is missing or null"):
        cut_sessions(Tables(pa.table({"user_id": ["u"], "item_id": ["a"]}), None, None, None), minutes=10)
