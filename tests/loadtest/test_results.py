from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from loadtest.results import Result


def test_a_result_names_folders_by_their_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFTERGLOW_RUNS", "/somewhere/runs/")
    Result("replay", {"expected": "/somewhere/runs/beauty/predictions.parquet"}).write(tmp_path / "result.json")
    written = orjson.loads((tmp_path / "result.json").read_bytes())
    assert written["options"]["expected"] == "$AFTERGLOW_RUNS/beauty/predictions.parquet"


def test_a_result_names_files_from_where_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Result("replay", {"out": str(tmp_path / "docs" / "result.json")}).write(tmp_path / "result.json")
    assert orjson.loads((tmp_path / "result.json").read_bytes())["options"]["out"] == "docs/result.json"
