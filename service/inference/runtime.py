"""ONNX Runtime sessions, made one way: explicit threads, no spinning, and the provider that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

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


def make_session(path: Path, device: Device, intra_op_threads: int, *, shared: Mapping[str, Any] | None = None) -> Any:
    """An InferenceSession over the file, external data included, on the device that was asked for.

    Args:
        path: the .onnx file; tensors with external data are mapped from the files beside it.
        device: `auto` takes CUDA where it works and the CPU otherwise; `cuda` never falls back in silence.
        intra_op_threads: threads of one `run`, at least 1.
        shared: from `place`, by name: used in place of the file's own initializers. They must outlive the session.

    Raises:
        ArtefactError: ONNX Runtime cannot load the file.
        SettingsError: `cuda` was asked for and the session runs elsewhere.
    """
    ort = import_onnxruntime()
    options = session_options(ort, intra_op_threads)
    for name, value in (shared or {}).items():
        options.add_initializer(name, value)
    providers = _providers(ort, device)
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its exceptions share no base class below Exception
        raise ArtefactError(f"{path.name}: ONNX Runtime cannot load it: {str(error).splitlines()[0]}") from error
    if device == "cuda":
        _check_cuda(session)
    return session


def make_session_of_bytes(graph: bytes, *, on_cuda: bool, intra_op_threads: int = 1) -> Any:
    """An InferenceSession over a graph that was written here, on CUDA or on the CPU, as the caller found out before.

    Raises:
        SettingsError: CUDA does not take it.
    """
    ort = import_onnxruntime()
    providers = _providers(ort, "cuda" if on_cuda else "cpu")
    session = ort.InferenceSession(graph, session_options(ort, intra_op_threads), providers=providers)
    if on_cuda:
        _check_cuda(session)
    return session


def has_cuda(device: Device) -> bool:
    """Whether models for `device` run on CUDA; for `auto`, whether it takes a number.

    Raises:
        SettingsError: `cuda` was asked for and is not compiled in.
    """
    if _providers(import_onnxruntime(), device) == [_CPU]:
        return False
    if device == "cuda":
        return True
    try:
        place(np.zeros(1, np.float32), on_cuda=True)
    except SettingsError:
        return False
    return True


def place(array: NDArray[Any], *, on_cuda: bool) -> Any:
    """The array as an OrtValue: a copy in the memory of the GPU, or the array itself, which must then not move.

    Raises:
        SettingsError: the GPU takes no data.
    """
    ort = import_onnxruntime()
    if not on_cuda:
        return ort.OrtValue.ortvalue_from_numpy(array)
    try:
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), "cuda", 0)
    except Exception as error:  # its exceptions share no base class below Exception
        raise SettingsError(
            f"{array.nbytes} bytes cannot be placed on the GPU: {str(error).splitlines()[0]}"
        ) from error


def session_options(ort: Any, intra_op_threads: int) -> Any:
    """SessionOptions as every session here has them: these threads, one operator at a time, no spinning."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _ERRORS_ONLY
    # Spinning threads take the cores of the HTTP loop between two requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _check_cuda(session: Any) -> None:
    # get_available_providers() lists what was compiled in; only the session knows what runs.
    found = session.get_providers()[0]
    if found != _CUDA:
        raise SettingsError(
            f"device is cuda, the session runs on {found}; "
            "check the GPU driver and the CUDA and cuDNN packages of the extra gpu"
        )


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
