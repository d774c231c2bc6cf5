from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from models.data.dataset import read_dataset, write_dataset
from models.knowledge import cli
from models.knowledge.store import load_knowledge


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    interactions = pa.table({"user_id": ["u", "u", "u", "v"], "item_id": ["a", "b", "a", "b"]})
    write_dataset(tmp_path / "data", interactions, pa.table({"item_id": ["a", "b"], "title": ["lamp", "chair"]}))
    return tmp_path / "data"


def test_build_then_show_prints_where_the_vectors_come_from(dataset: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    arguments = ["build", str(dataset), "--out", str(tmp_path / "k"), "--encoder", "hash"]
    built = runner.invoke(cli.app, arguments)
    assert built.exit_code == 0, built.stderr
    assert "for tests only" in built.stderr
    assert "written to" in built.stderr
    assert load_knowledge(tmp_path / "k", read_dataset(dataset)).item_vectors.shape == (3, 64)
    again = runner.invoke(cli.app, arguments)
    assert "up to date, nothing to do" in again.stderr
    shown = runner.invoke(cli.app, ["show", str(tmp_path / "k")])
    assert json.loads(shown.stdout)["encoder"]["name"] == "hash"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nowhere"], "error: nowhere: no knowledge.json"),
        (["build", "nowhere", "--out", "k", "--encoder", "hash"], "error: nowhere: no such folder"),
        (["build", "nowhere", "--out", "k", "--encoder", "hash", "--split", "odd"], "split 'odd' is unknown"),
    ],
)
def test_errors_are_one_line_and_code_1(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_ctrl_c_is_one_line_and_code_130(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "build_knowledge", interrupted)
    result = CliRunner().invoke(cli.app, ["build", str(dataset), "--out", str(tmp_path / "k"), "--encoder", "hash"])
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
