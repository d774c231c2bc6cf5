import gzip
from pathlib import Path

import pytest

from models.data.importers.plain_csv import InteractionColumns, ItemColumns, read_csv
from models.data.importers.rows import TimeUnit
from models.errors import DatasetError

PLAIN = InteractionColumns(user="user_id", item="item_id")


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_named_columns_become_the_columns_of_a_dataset(tmp_path: Path) -> None:
    clicks = write(
        tmp_path / "clicks.csv",
        "visit;who;noise;what;when;stars;place;bought;rank\n1;ann;x;a;1700000000123;4.5;home;1;0\n2;bob;;b;1700000001000;3;ads;0;7\n",
    )
    columns = InteractionColumns(
        user="who",
        item="what",
        timestamp="when",
        time_unit=TimeUnit.ms,
        position="rank",
        rating="stars",
        label="bought",
        scenario="place",
        session="visit",
    )
    found = read_csv(clicks, columns, delimiter=";")
    assert found.rejected == []
    assert found.interactions.to_pylist() == [
        {
            "user_id": "ann",
            "item_id": "a",
            "timestamp": 1700000000,
            "position": 0,
            "rating": 4.5,
            "label": 1,
            "scenario": "home",
            "session_id": "1",
        },
        {
            "user_id": "bob",
            "item_id": "b",
            "timestamp": 1700000001,
            "position": 7,
            "rating": 3.0,
            "label": 0,
            "scenario": "ads",
            "session_id": "2",
        },
    ]


@pytest.mark.parametrize(
    ("unit", "text", "expected"),
    [
        (TimeUnit.s, "1396861800", 1396861800),
        (TimeUnit.s, "1396861800.9", 1396861800),
        (TimeUnit.ms, "1396861800999", 1396861800),
        (TimeUnit.us, "1396861800999999", 1396861800),
        (TimeUnit.iso, "2014-04-07T09:10:00.5Z", 1396861800),
        (TimeUnit.iso, "2014-04-07 11:10:00+02:00", 1396861800),
        (TimeUnit.iso, "2014-04-07 09:10:00", 1396861800),
    ],
)
def test_times_in_every_unit_become_utc_seconds(tmp_path: Path, unit: TimeUnit, text: str, expected: int) -> None:
    clicks = write(tmp_path / "c.csv", f"user_id,item_id,t\nu,i,{text}\n")
    found = read_csv(clicks, InteractionColumns(user="user_id", item="item_id", timestamp="t", time_unit=unit))
    assert found.interactions.column("timestamp").to_pylist() == [expected]


def test_items_keep_every_column_as_a_text(tmp_path: Path) -> None:
    clicks = write(tmp_path / "c.csv", "user_id,item_id\nu,a\n")
    items = write(
        tmp_path / "i.csv.gz", gzip.compress(b'\xef\xbb\xbfsku,name,kind,colour\na,"Mug,\nbig",Cups,red\nb,,,&amp;\n')
    )
    found = read_csv(clicks, PLAIN, items, ItemColumns(item="sku", title="name", category="kind"))
    assert found.rejected == []
    assert found.items is not None
    assert found.items.to_pylist() == [
        {"item_id": "a", "title": "Mug, big", "category": "Cups", "colour": "red"},
        {"item_id": "b", "title": None, "category": None, "colour": "&"},
    ]


def test_every_row_that_cannot_be_read_is_reported_with_its_line(tmp_path: Path) -> None:
    clicks = write(
        tmp_path / "c.csv",
        b'user_id,item_id,label\nu,a,1\n\nu,a\nu,"b\nc",0\nu,\xff,1\nu,"x"y,1\nu,a,2\nu,a,yes\nu,a,1.5\n,a,1\nv,b,0\n',
    )
    found = read_csv(clicks, InteractionColumns(user="user_id", item="item_id", label="label"))

    assert found.interactions.column("user_id").to_pylist() == ["u", "v"]
    assert [(row["line"], row["reason"]) for row in found.rejected] == [
        (4, "2 fields, expected 3 as in the header"),
        (5, "item_id 'b\\nc' is not an id: 1 to 128 characters of A-Z a-z 0-9 _ . : @ -"),
        (7, "is not UTF-8"),
        (8, "',' expected after '\"'"),
        (9, "label 2 is neither 0 nor 1"),
        (10, "label 'yes' is not a number"),
        (11, "label '1.5' is not a whole number"),
        (12, "user_id is missing"),
    ]
    assert [row["text"] for row in found.rejected][:3] == ["u,a", "u,b\nc,0", "u,?,1"]


def test_a_quote_that_never_ends_is_reported_with_the_lines_it_swallowed(tmp_path: Path) -> None:
    found = read_csv(write(tmp_path / "c.csv", 'user_id,item_id\nu,a\nu,"b\nu,c\nu,d\n'), PLAIN)
    assert found.interactions.num_rows == 1
    assert [(row["line"], row["reason"]) for row in found.rejected] == [(3, "unexpected end of data (lines 3 to 5)")]


def test_the_order_of_the_rows_stays(tmp_path: Path) -> None:
    found = read_csv(write(tmp_path / "c.csv", "item_id,user_id\nb,u\na,u\nb,u\n"), PLAIN)
    assert found.interactions.column("item_id").to_pylist() == ["b", "a", "b"]
    assert found.interactions.column_names == ["user_id", "item_id"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty, expected a header"),
        ("user,item_id\nu,a\n", "no column 'user_id', found user, item_id"),
        ("user_id,item_id\n", "no interaction could be read"),
    ],
)
def test_a_file_that_cannot_be_imported_at_all_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_csv(write(tmp_path / "c.csv", text), PLAIN)
