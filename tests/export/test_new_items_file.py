"""A file of new items as a table."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export.errors import ExportError
from export.new_items_file import read_new_items


def test_the_three_formats_say_the_same(tmp_path: Path) -> None:
    rows = [{"item_id": "b", "title": "Soap, blue", "category": "wash"}, {"item_id": "a", "title": "Comb"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "x.csv").write_text('item_id,title,category\nb,"Soap, blue",wash\na,Comb,\n')
    expected = [{"item_id": "a", "title": "Comb", "category": None}, rows[0]]
    for name in ("x.parquet", "x.jsonl", "x.csv"):
        assert read_new_items(tmp_path / name).to_pylist() == expected


def test_ids_and_titles_of_a_csv_stay_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('item_id,title\n007,2024\n08,"two\nlines"\n')
    assert read_new_items(tmp_path / "x.csv").to_pylist() == [
        {"item_id": "007", "title": "2024"},
        {"item_id": "08", "title": "two\nlines"},
    ]


def test_whole_numbers_are_ids_too(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"item_id": 12, "title": "x"}\n')
    assert read_new_items(tmp_path / "x.jsonl")["item_id"].to_pylist() == ["12"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("item_id,title\na,x\nb,y\na,z\n", r"item_id must be unique, 1 repeat \(a\)"),
        ("item_id,title\na b,x\n", r"1 ids \('a b'\) are not 1 to 128 characters"),
        ("item_id,title\n,x\n", "item_id is null in 1 of 1 rows"),
        ("sku,title\na,x\n", "column 'item_id' is missing, found sku, title"),
        ("item_id,title\n", "has no items"),
        ("", "cannot be read"),
        ("item_id,title\na,x,y\n", "cannot be read"),
    ],
)
def test_a_csv_that_cannot_be_added_is_refused(tmp_path: Path, content: str, fault: str) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(ExportError, match=fault):
        read_new_items(tmp_path / "x.csv")


def test_a_file_that_is_not_there_or_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be read"):
        read_new_items(tmp_path / "none.csv")
    with pytest.raises(ExportError, match=r"ends in '.xlsx', expected .parquet, .csv, .jsonl"):
        read_new_items(tmp_path / "x.xlsx")
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    with pytest.raises(ExportError, match="cannot be read"):
        read_new_items(tmp_path / "x.parquet")
    (tmp_path / "x.jsonl").write_text('{"item_id": 1.5}\n')
    with pytest.raises(ExportError, match="'item_id' is double, expected string or integer"):
        read_new_items(tmp_path / "x.jsonl")
