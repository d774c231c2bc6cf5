import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data.sequences import Sequences

ROWS = st.lists(st.lists(st.integers(1, 9), max_size=5), max_size=6)


def test_rows_come_back_as_they_were_given() -> None:
    sequences = Sequences.from_lists([[3, 1], [], [2, 2, 5]])

    assert len(sequences) == 3
    assert [row.tolist() for row in sequences] == [[3, 1], [], [2, 2, 5]]
    assert sequences.lengths.tolist() == [2, 0, 3]
    assert sequences.rows.tolist() == [0, 0, 2, 2, 2]
    assert sequences[-1].tolist() == [2, 2, 5]


def test_a_row_that_is_not_there_raises_index_error() -> None:
    sequences = Sequences.from_lists([[1]])
    for row in (1, -2):
        with pytest.raises(IndexError, match="1 sequences"):
            sequences[row]


def test_nothing_at_all_is_a_ragged_array_of_no_rows() -> None:
    sequences = Sequences.from_lists([])
    assert len(sequences) == 0
    assert sequences.items.dtype == np.int64
    assert list(sequences) == []


@given(ROWS, st.data())
def test_prefixes_are_the_beginning_of_every_row(rows: list[list[int]], data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(-2, 7), min_size=len(rows), max_size=len(rows)))
    found = Sequences.from_lists(rows).prefixes(np.array(lengths, dtype=np.int64))
    assert [row.tolist() for row in found] == [row[: max(0, n)] for row, n in zip(rows, lengths, strict=True)]


@given(ROWS.filter(bool), st.data())
def test_take_picks_rows_in_the_order_asked_for(rows: list[list[int]], data: st.DataObject) -> None:
    wanted = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
    found = Sequences.from_lists(rows).take(np.array(wanted, dtype=np.int64))
    assert [row.tolist() for row in found] == [rows[row] for row in wanted]


@given(ROWS)
def test_where_keeps_the_rows_and_drops_the_entries(rows: list[list[int]]) -> None:
    sequences = Sequences.from_lists(rows)
    found = sequences.where(sequences.items > 4)
    assert [row.tolist() for row in found] == [[item for item in row if item > 4] for row in rows]
