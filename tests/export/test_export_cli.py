from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import export.baselines
from export.artefact import Draft
from export.cli import app
from service.artefact.check import check_report
from service.artefact.directory import resolve


def invoke(*args: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(arg) for arg in args], prog_name="python -m export")
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("command", ["run", "baseline", "pack"])
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    code, out, _ = invoke(command, "--help")
    assert code == 0
    assert "Example: python -m export" in out
    assert "--out" in out


def test_a_baseline_is_made_and_its_folder_printed(dataset_folder: Path, tmp_path: Path) -> None:
    code, out, err = invoke("baseline", "popularity", dataset_folder, "--out", tmp_path, "--name", "most-bought")
    assert code == 0, err
    assert Path(out.strip()) == resolve(tmp_path, "most-bought@latest")
    assert check_report(Path(out.strip())) == []
    assert err.splitlines() == ["reading the dataset", "writing the item table", "checking as the service would"]


def test_a_run_needs_no_command(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def write(draft: Draft, out: Path, on_step: object) -> Path:
        asked.append((draft, out))
        return out

    monkeypatch.setattr("export.artefact.write_artefact", write)
    code, _, err = invoke(run_folder, "--out", tmp_path, "--history-source", "user", "--history-event", "play")
    assert code == 0, err
    ((draft, out),) = asked
    assert (draft.name, draft.history_source, draft.history_events, out) == ("cycle", "user", ("play",), tmp_path)


def test_a_folder_that_is_no_run_is_one_message_and_code_1(tmp_path: Path) -> None:
    code, _, err = invoke(tmp_path / "nowhere")
    assert code == 1
    assert err.splitlines()[-1].startswith(f"error: {tmp_path / 'nowhere'}: is not a run")


def test_ctrl_c_is_one_message_and_code_130(
    dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export.baselines, "write_artefact", interrupted)
    code, _, err = invoke("baseline", "noop", dataset_folder, "--out", tmp_path)
    assert code == 130
    assert err.splitlines()[-1] == "interrupted, nothing was written"


def test_reasons_of_a_refused_package_are_listed(tmp_path: Path) -> None:
    for name in ("my.onnx", "my.npy", "ids.txt"):
        (tmp_path / name).write_bytes(b"")
    code, _, err = invoke(
        "pack", "--encoder", tmp_path / "my.onnx", "--items", tmp_path / "my.npy", "--item-ids", tmp_path / "ids.txt"
    )
    assert code == 1
    assert "  - my.npy: is not a readable .npy file" in err
    assert "  - ids.txt: is empty" in err
    assert "  - my.onnx: is not a valid ONNX file" in err
