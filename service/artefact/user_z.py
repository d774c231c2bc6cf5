"""z of the users that an LLM told of: two row-aligned files of a ranker's artefact, memory-mapped, looked up by id.

Ids are bytes of one width in ascending order, so that a look-up is a binary search in the file and nothing is held in
memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.artefact.manifest import ItemTableSpec, UserZSpec
from service.artefact.tables import open_table


@dataclass(frozen=True)
class UserZ:
    """z by user_id."""

    ids: NDArray[np.bytes_]  # memory-mapped (n_users,), ascending
    vectors: NDArray[np.float16]  # memory-mapped (n_users, z_size)

    def find(self, user_id: str) -> NDArray[np.float32] | None:
        """float32 (z_size,) of the user; None for somebody the LLM was not asked about."""
        key = user_id.encode()
        if len(key) > self.ids.dtype.itemsize:  # a longer one would be cut before it is compared
            return None
        place = int(np.searchsorted(self.ids, np.bytes_(key)))
        if place == len(self.ids) or self.ids[place] != key:
            return None
        return np.asarray(self.vectors[place], dtype=np.float32)


def write_user_z(folder: Path, user_ids: Sequence[str], vectors: NDArray[np.floating[Any]]) -> UserZSpec:
    """Writes both files of a `UserZSpec` into `folder`, in the order of ids; gives that spec."""
    spec = UserZSpec(n_users=len(user_ids))
    ids = np.array([user_id.encode() for user_id in user_ids], dtype=np.bytes_)
    order = np.argsort(ids, kind="stable")
    np.save(folder / spec.ids, ids[order])
    np.save(folder / spec.file, np.ascontiguousarray(vectors[order], dtype=np.float16))
    return spec


def read_user_z(folder: Path, spec: UserZSpec, z_size: int) -> tuple[UserZ | None, list[str]]:
    """The vectors of an artefact, or none and why."""
    table = ItemTableSpec(file=spec.file, dtype="float16", shape=[spec.n_users, z_size], meaning="z of users")
    vectors, faults = open_table(folder / spec.file, table)
    try:
        ids = np.load(folder / spec.ids, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        return None, [*faults, f"{spec.ids}: is not a readable .npy file ({error})"]
    if ids.dtype.kind != "S" or ids.shape != (spec.n_users,):
        faults.append(f"{spec.ids}: is {ids.dtype} {ids.shape}, expected bytes ({spec.n_users},)")
    elif not (ids[:-1] < ids[1:]).all():
        faults.append(f"{spec.ids}: ids are not ascending, or one is there twice")
    return (None, faults) if faults or vectors is None else (UserZ(ids, vectors), [])
