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
