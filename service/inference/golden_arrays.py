"""Arrays of a `golden.npz`: read without pickles, checked against what they should be, ragged lists cut by offsets."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import ArtefactError


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of the file.

    Raises:
        ArtefactError: it is unreadable.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ArtefactError(f"{path.name}: is not a readable .npz file ({error})") from error


def check_arrays(
    path: Path, found: Mapping[str, NDArray[Any]], expected: Mapping[str, tuple[str, tuple[int, ...]]]
) -> None:
    """Nothing when each expected name has its dtype, or its kind of dtype, and its shape.

    Raises:
        ArtefactError: names the first that has not.
    """
    for name, (dtype, shape) in expected.items():
        array = found.get(name)
        if array is None:
            raise ArtefactError(f"{path.name}: array {name} is missing")
        if array.shape != shape or dtype not in (str(array.dtype), array.dtype.kind):
            raise ArtefactError(f"{path.name}: {name} is {array.dtype} {array.shape}, expected {dtype} {shape}")


def flat(lists: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """int64: all lists, one after the other."""
    return np.array([index for row in lists for index in row], dtype=np.int64)


def offsets_of(lists: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """int64 (lists + 1,): list n is flat[offsets[n] : offsets[n + 1]]."""
    return np.cumsum([0, *map(len, lists)], dtype=np.int64)
