from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from service.errors import ArtefactError, SettingsError
from service.inference import runtime
from service.inference.runtime import has_cuda, import_onnxruntime, make_session


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def version(name: str) -> str:
        if name in names:
            return "1.31.1"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)


def test_without_onnx_runtime_the_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)
    with pytest.raises(SettingsError, match=r"pip install 'afterglow\[cpu\]' or 'afterglow\[gpu\]'"):
        import_onnxruntime()


def test_both_wheels_together_are_refused_with_the_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    with pytest.raises(SettingsError, match=r"both installed .* pip uninstall -y onnxruntime onnxruntime-gpu"):
        import_onnxruntime()


@pytest.mark.parametrize("wheel", ["onnxruntime", "onnxruntime-gpu"])
def test_either_wheel_alone_is_fine(monkeypatch: pytest.MonkeyPatch, wheel: str) -> None:
    installed(monkeypatch, wheel)
    assert import_onnxruntime().__name__ == "onnxruntime"


def test_a_session_has_the_threads_asked_for_and_does_not_spin(artefact_path: Path) -> None:
    session = make_session(artefact_path / "encoder.onnx", "cpu", intra_op_threads=2)
    options = session.get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_cuda_without_a_cuda_build_is_an_error(artefact_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ort = import_onnxruntime()
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(SettingsError, match="device is cuda, the installed ONNX Runtime has no CUDA"):
        make_session(artefact_path / "encoder.onnx", "cuda", intra_op_threads=1)


class FallenBack:
    """A session that was asked for CUDA and runs on the CPU, as ONNX Runtime answers without a driver."""

    def __init__(self, path: str, options: object, providers: list[object]) -> None:
        assert providers == [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = import_onnxruntime()
    compiled_in = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: compiled_in)
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    monkeypatch.setattr(ort, "InferenceSession", FallenBack)


@pytest.mark.usefixtures("cuda_build")
def test_a_silent_fallback_from_cuda_is_an_error(artefact_path: Path) -> None:
    with pytest.raises(SettingsError, match="device is cuda, the session runs on CPUExecutionProvider"):
        make_session(artefact_path / "encoder.onnx", "cuda", intra_op_threads=1)


@pytest.mark.usefixtures("cuda_build")
def test_auto_takes_what_it_gets(artefact_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_gpu_is_visible", lambda: True)
    session = make_session(artefact_path / "encoder.onnx", "auto", intra_op_threads=1)
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_a_file_that_is_no_graph_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "encoder.onnx").write_bytes(b"nothing")
    with pytest.raises(ArtefactError, match=r"encoder\.onnx: ONNX Runtime cannot load it"):
        make_session(tmp_path / "encoder.onnx", "cpu", intra_op_threads=1)


@pytest.mark.usefixtures("cuda_build")
def test_auto_takes_cuda_only_where_it_takes_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is visible may still lack its libraries; this build has none at all."""
    monkeypatch.setattr(runtime, "_gpu_is_visible", lambda: True)
    assert not has_cuda("auto")
    assert has_cuda("cuda")  # was asked for: the session will say what is wrong
    assert not has_cuda("cpu")
