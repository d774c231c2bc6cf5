import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.data.dataset import NO_TIMESTAMP, read_dataset, write_dataset
from models.data.folder import digest_of, read_tables
from models.errors import DatasetError

INTERACTIONS = pa.table(
    {
        "user_id": ["u2", "u1", "u2", "u1", "u2"],
        "item_id": ["b", "c", "a", "a", "c"],
        "timestamp": [30, 10, 20, 20, 20],
        "scenario": ["home", "search", "home", "home", "search"],
        "session_id": ["s2", "s1", "s2", "s1", "s2"],
    }
)
ITEMS = pa.table({"item_id": ["c", "a", "z"], "title": ["Cup", None, "Zip"], "generated_text_id": ["x", "an a", None]})


def test_a_written_dataset_reads_back_chronological_and_aligned(tmp_path: Path) -> None:
    write_dataset(tmp_path / "shop", INTERACTIONS, ITEMS)
    found = read_dataset(tmp_path / "shop")

    assert found.name == "shop"
    assert found.item_ids == ("a", "b", "c", "z")
    assert found.user_ids == ("u1", "u2")
    # u1: c at 10, a at 20. u2: a and c both at 20, in file order, then b at 30.
    assert [row.tolist() for row in found.sequences] == [[3, 1], [1, 3, 2]]
    assert found.timestamps is not None
    assert found.timestamps.tolist() == [10, 20, 20, 20, 30]
    assert found.scenario_names == ("home", "search")
    assert found.scenarios is not None
    assert found.scenarios.tolist() == [1, 0, 0, 1, 0]
    assert found.session_ids is not None
    assert found.session_ids.tolist() == ["s1", "s1", "s2", "s2", "s2"]
    assert found.items.column("item_id").to_pylist() == ["a", "b", "c", "z"]
    assert (found.n_users, found.n_items, found.n_interactions) == (2, 4, 5)


def test_the_title_is_the_first_text_that_is_not_empty(tmp_path: Path) -> None:
    write_dataset(tmp_path / "shop", INTERACTIONS, ITEMS)
    found = read_dataset(tmp_path / "shop")
    assert found.item_titles() == ["an a", "", "Cup", "Zip"]
    assert found.item_categories() == ["", "", "", ""]


def test_integer_ids_become_strings_in_string_order(tmp_path: Path) -> None:
    interactions = pa.table({"user_id": [10, 9, 10], "item_id": [2, 10, 10], "timestamp": [1, 1, 2]})
    write_dataset(tmp_path / "set", interactions, pa.table({"item_id": [10, 2], "title": ["ten", "two"]}))
    found = read_dataset(tmp_path / "set")
    assert found.user_ids == ("10", "9")
    assert found.item_ids == ("10", "2")
    assert [row.tolist() for row in found.sequences] == [[2, 1], [1]]
    assert found.item_titles() == ["ten", "two"]


def test_position_orders_before_timestamp(tmp_path: Path) -> None:
    interactions = pa.table(
        {"user_id": ["u"] * 3, "item_id": ["a", "b", "c"], "timestamp": [1, 2, None], "position": [2, 1, 0]}
    )
    write_dataset(tmp_path / "set", interactions, None)
    found = read_dataset(tmp_path / "set")
    assert found.sequences[0].tolist() == [3, 2, 1]
    assert found.timestamps is not None
    assert found.timestamps.tolist() == [NO_TIMESTAMP, 2, 1]


def test_without_times_and_positions_the_file_order_counts(tmp_path: Path) -> None:
    interactions = pa.table(
        {"user_id": ["u", "v", "u"], "item_id": ["b", "b", "a"], "timestamp": pa.nulls(3, pa.int64())}
    )
    write_dataset(tmp_path / "set", interactions, None)
    found = read_dataset(tmp_path / "set")
    assert [row.tolist() for row in found.sequences] == [[2, 1], [2]]
    assert (found.timestamps, found.scenarios, found.session_ids, found.scenario_names) == (None, None, None, ())
    assert found.items.column_names == ["item_id", "title"]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("user_id", ["u", None, None], "interactions.parquet: column 'user_id' is null in row 1 and 1 more"),
        ("item_id", ["a", "b", ""], "interactions.parquet: column 'item_id' is empty in row 2"),
        ("item_id", [1.5, 2.0, 3.0], "column 'item_id' is double, expected string or integer"),
        ("timestamp", [1, None, 3], "column 'timestamp' orders the events but is null in row 1"),
        ("timestamp", ["1", "2", "3"], "column 'timestamp' is string, expected whole seconds"),
        ("position", [0, 1, None], "column 'position' orders the events but is null in row 2"),
        ("scenario", ["home", None, "home"], "column 'scenario' is null in row 1"),
    ],
)
def test_a_bad_column_is_named_with_its_row(tmp_path: Path, column: str, values: list[object], message: str) -> None:
    columns: dict[str, object] = {"user_id": ["u", "u", "u"], "item_id": ["a", "b", "c"]}
    write_dataset(tmp_path / "set", pa.table({**columns, column: values}), None)
    with pytest.raises(DatasetError, match=message):
        read_dataset(tmp_path / "set")


def test_a_missing_column_is_named_with_those_there(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", pa.table({"user_id": ["u"], "item": ["a"]}), None)
    with pytest.raises(DatasetError, match="column 'item_id' is missing, found user_id, item"):
        read_dataset(tmp_path / "set")


def test_an_item_id_that_repeats_is_named_with_its_rows(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", INTERACTIONS, pa.table({"item_id": ["a", "b", "a"], "title": ["1", "2", "3"]}))
    with pytest.raises(DatasetError, match=r"items.parquet: .* 1 ids repeat: 'a' stands in rows 0 and 2"):
        read_dataset(tmp_path / "set")


def test_a_dataset_without_rows_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", INTERACTIONS.slice(0, 0), ITEMS)
    with pytest.raises(DatasetError, match="has no rows"):
        read_dataset(tmp_path / "set")


def test_a_folder_without_interactions_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DatasetError, match=r"interactions.parquet is missing, found notes.txt"):
        read_dataset(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        read_dataset(tmp_path / "nowhere")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", INTERACTIONS, ITEMS)
    (tmp_path / "set" / "items.parquet").write_bytes(b"PAR1 no longer")
    with pytest.raises(DatasetError, match=r"items.parquet: cannot be read as Parquet"):
        read_dataset(tmp_path / "set")


def test_the_digest_changes_with_the_files_and_only_then(tmp_path: Path) -> None:
    write_dataset(tmp_path / "one", INTERACTIONS, ITEMS)
    write_dataset(tmp_path / "two", INTERACTIONS, ITEMS)
    write_dataset(tmp_path / "three", INTERACTIONS, ITEMS.slice(1))
    assert read_dataset(tmp_path / "one").digest == digest_of(tmp_path / "two")
    assert digest_of(tmp_path / "one") != digest_of(tmp_path / "three")


def test_writing_again_replaces_every_file(tmp_path: Path) -> None:
    rejected = [{"file": "raw", "line": 3, "reason": "ü", "text": ""}]
    write_dataset(tmp_path / "set", INTERACTIONS, ITEMS, INTERACTIONS.select(["user_id"]), rejected=rejected)
    assert json.loads((tmp_path / "set" / "rejected.jsonl").read_text(encoding="utf-8")) == rejected[0]
    write_dataset(tmp_path / "set", INTERACTIONS.slice(0, 1), ITEMS, impressions=INTERACTIONS)

    tables = read_tables(tmp_path / "set")
    assert tables.interactions.num_rows == 1
    assert tables.users is None
    assert tables.impressions is not None
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == [
        "impressions.parquet",
        "interactions.parquet",
        "items.parquet",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_with_other_things_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DatasetError, match=r"holds thesis.tex"):
        write_dataset(tmp_path, INTERACTIONS, ITEMS)
    with pytest.raises(DatasetError, match="is a file"):
        write_dataset(tmp_path / "thesis.tex", INTERACTIONS, ITEMS)


def test_a_write_that_fails_leaves_the_old_dataset_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "set", INTERACTIONS, ITEMS)
    before = digest_of(tmp_path / "set")
    monkeypatch.setattr(pq, "write_table", _full_disk)
    with pytest.raises(OSError, match="disk is full"):
        write_dataset(tmp_path / "set", INTERACTIONS.slice(0, 1), ITEMS)
    assert digest_of(tmp_path / "set") == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def _full_disk(*_: object, **__: object) -> None:
    raise OSError("disk is full")


def test_times_as_arrow_timestamps_or_fractions_become_whole_seconds(tmp_path: Path) -> None:
    moments = np.array(["1970-01-01T00:00:02.9", "1970-01-01T00:00:01"], dtype="datetime64[ms]")
    for values in (pa.array(moments), pa.array([2.9, 1.0])):
        write_dataset(
            tmp_path / "set", pa.table({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": values}), None
        )
        found = read_dataset(tmp_path / "set")
        assert found.sequences[0].tolist() == [2, 1]
        assert found.timestamps is not None
        assert found.timestamps.tolist() == [1, 2]
