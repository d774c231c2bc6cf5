"""ONNX Runtime sessions, made one way: explicit threads, no spinning, and the provider that was asked for."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from service.errors import ArtefactError, SettingsError

Device = Literal["auto", "cpu", "cuda"]

_WHEELS = ("onnxruntime", "onnxruntime-gpu")
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_ERRORS_ONLY = 3


def import_onnxruntime() -> Any:
    """The onnxruntime module.

    Raises:
        SettingsError: neither wheel is installed, or both are: they own the same folder, and the one that was
            installed last wins without a word.
    """
    installed = [name for name in _WHEELS if _is_installed(name)]
    if not installed:
        raise SettingsError(
            "ONNX Runtime is not installed; install one extra: pip install 'afterglow[cpu]' or 'afterglow[gpu]'"
        )
    if len(installed) > 1:
        raise SettingsError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; repair: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install one of the extras cpu and gpu"
        )
    import onnxruntime

    return onnxruntime


def make_session(path: Path, device: Device, intra_op_threads: int) -> Any:
    """An InferenceSession over the file, external data included, on the device that was asked for.

    Args:
        path: the .onnx file; tensors with external data are mapped from the files beside it.
        device: `auto` takes CUDA where it works and the CPU otherwise; `cuda` never falls back in silence.
        intra_op_threads: threads of one `run`, at least 1.

    Raises:
        ArtefactError: ONNX Runtime cannot load the file.
        SettingsError: `cuda` was asked for and the session runs elsewhere.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _ERRORS_ONLY
    # Spinning threads take the cores of the HTTP loop between two requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")

    providers = _providers(ort, device)
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its exceptions share no base class below Exception
        raise ArtefactError(f"{path.name}: ONNX Runtime cannot load it: {str(error).splitlines()[0]}") from error
    # get_available_providers() lists what was compiled in; only the session knows what runs.
    if device == "cuda" and session.get_providers()[0] != _CUDA:
        raise SettingsError(
            f"device is cuda, the session runs on {session.get_providers()[0]}; "
            "check the GPU driver and the CUDA and cuDNN packages of the extra gpu"
        )
    return session


def _providers(ort: Any, device: Device) -> list[Any]:
    compiled_in = _CUDA in ort.get_available_providers()
    if device == "cuda" and not compiled_in:
        raise SettingsError(
            "device is cuda, the installed ONNX Runtime has no CUDA; install the extra gpu instead of cpu"
        )
    if device == "cpu" or not compiled_in or (device == "auto" and not _gpu_is_visible()):
        return [_CPU]
    ort.preload_dlls()  # CUDA and cuDNN from the nvidia-* wheels of the extra gpu
    return [(_CUDA, {"use_tf32": "0"}), _CPU]


def _gpu_is_visible() -> bool:
    """Asking CUDA on a machine without a GPU works, but logs errors; a device file tells it quietly."""
    return any(Path(device).exists() for device in ("/dev/nvidia0", "/dev/dxg"))


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
