from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

import export.artefact
from export.artefact import Draft, write_artefact
from export.baselines import BASELINES, make_catalogue
from export.errors import ExportError
from service.artefact.check import check_report
from service.artefact.directory import list_names
from service.errors import ArtefactRefused


@pytest.fixture
def draft() -> Draft:
    return BASELINES["topk_only"](make_catalogue([f"i-{n}" for n in range(1, 10)]))


def test_the_folder_is_named_after_name_and_version_and_holds_no_more_than_its_files(
    draft: Draft, tmp_path: Path
) -> None:
    path = write_artefact(replace(draft, name="mine"), tmp_path / "new" / "artefacts")
    assert path.parent == tmp_path / "new" / "artefacts" / "mine"
    assert sorted(file.name for file in path.iterdir()) == [
        "encoder.onnx",
        "golden.npz",
        "items.npy",
        "items.parquet",
        "manifest.json",
    ]
    assert [entry.name for entry in (tmp_path / "new" / "artefacts").iterdir()] == ["mine"]
    assert check_report(path) == []


def test_everything_else_in_the_root_is_left_alone(draft: Draft, tmp_path: Path) -> None:
    (tmp_path / "scenarios.toml").write_text("default = 'home'")
    first = write_artefact(draft, tmp_path)
    second = write_artefact(replace(draft, seed=1), tmp_path)
    assert (tmp_path / "scenarios.toml").read_text() == "default = 'home'"
    assert first != second
    assert check_report(first) == []


@pytest.mark.parametrize("failure", [RuntimeError("disk full"), KeyboardInterrupt()])
def test_a_failure_while_writing_leaves_nothing(draft: Draft, tmp_path: Path, failure: BaseException) -> None:
    def fail(folder: Path) -> None:
        (folder / "encoder.onnx").write_bytes(b"half")
        raise failure

    with pytest.raises(type(failure)):
        write_artefact(replace(draft, write_encoder=fail), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_the_service_would_refuse_is_not_published(draft: Draft, tmp_path: Path) -> None:
    catalogue = make_catalogue(["i 1", *draft.catalogue.item_ids[1:]])
    with pytest.raises(ArtefactRefused, match="item_id 'i 1' in row 1"):
        write_artefact(replace(draft, catalogue=catalogue), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_golden_answers_of_the_original_model_hold_the_graph_to_it(draft: Draft, tmp_path: Path) -> None:
    with pytest.raises(ArtefactRefused, match=r"golden\.npz: case 'short' .* queries are off by"):
        write_artefact(
            replace(draft, reference=lambda histories: np.ones((len(histories), 1, 16), np.float32)), tmp_path
        )


def test_a_metric_that_is_not_a_number_does_not_break_the_manifest(draft: Draft, tmp_path: Path) -> None:
    path = write_artefact(replace(draft, metrics={"tail_item": {"n": 0, "ndcg@10": float("nan")}}), tmp_path)
    assert check_report(path) == []


def test_an_event_that_no_request_could_name_is_refused(draft: Draft, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="history event is 'add to cart'"):
        write_artefact(replace(draft, history_events=("view", "add to cart")), tmp_path)


@pytest.mark.parametrize("name", ["", "Beauty", "a/b", "../x", ".hidden", "x" * 65])
def test_a_name_that_cannot_be_a_folder_is_refused(draft: Draft, tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError, match="artefact name is"):
        write_artefact(replace(draft, name=name), tmp_path)


def test_the_same_artefact_written_twice_is_one(draft: Draft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        @staticmethod
        def now(zone: object) -> datetime:
            return datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)

    monkeypatch.setattr(export.artefact, "datetime", Clock)
    paths = {write_artefact(draft, tmp_path) for _ in range(2)}
    (path,) = paths
    assert path.name.startswith("20260102T030405Z-")
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
import export.artefact
from export.artefact import write_artefact
from export.baselines import BASELINES, make_catalogue

draft = BASELINES["noop"](make_catalogue(["a", "b", "c"]))
export.artefact.check_report = lambda path: os.kill(os.getpid(), signal.SIGKILL)
write_artefact(draft, Path(sys.argv[1]))
"""


def test_a_kill_before_the_rename_leaves_no_artefact(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list_names(tmp_path) == []
    assert [entry.name[:9] for entry in tmp_path.iterdir()] == [".writing-"]
