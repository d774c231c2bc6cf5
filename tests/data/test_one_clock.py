from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from models.data.cli import app
from models.data.dataset import read_dataset
from models.data.folder import write_dataset


def _shops(folder: Path) -> Path:
    rows = [
        ("ann", "b:1", 5, 0, "books"), ("ann", "b:2", 5, 1, "books"), ("ann", "b:3", 8, 2, "books"),
        ("ann", "t:1", 1, 0, "tools"), ("ann", "t:2", 5, 1, "tools"), ("ann", "y:1", None, 0, "toys"),
        ("ben", "b:1", 5, 0, "books"),
    ]  # fmt: skip
    columns = ("user_id", "item_id", "timestamp", "position", "scenario")
    table = pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in rows])
    items = pa.table({"item_id": ["b:1", "b:2", "b:3", "t:1", "t:2", "y:1"]})
    write_dataset(folder, table, items)
    return folder


def test_kept_scenarios_are_in_order_of_time_and_of_place_within_one(tmp_path: Path) -> None:
    words = ["scenarios", str(_shops(tmp_path / "shops")), str(tmp_path / "out"), "--keep", "books", "--keep", "tools"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    dataset = read_dataset(tmp_path / "out")
    assert dataset.user_ids == ("ann",)  # ben is in books alone
    assert [dataset.item_ids[item - 1] for item in dataset.sequences[0]] == ["t:1", "b:1", "b:2", "t:2", "b:3"]
    assert dataset.item_ids == ("b:1", "b:2", "b:3", "t:1", "t:2")


@pytest.mark.parametrize(
    ("keep", "fault"), [(["books", "toys"], "1 events have no time"), (["books", "cars"], "scenario cars is unknown")]
)
def test_scenarios_without_one_clock_are_refused(keep: list[str], fault: str, tmp_path: Path) -> None:
    words = ["scenarios", str(_shops(tmp_path / "shops")), str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*words, *(word for name in keep for word in ("--keep", name))])
    assert done.exit_code == 1
    assert fault in str(done.exception) + done.output
    assert not (tmp_path / "out").exists()
