"""The knowledge folder on disk: its files, their digests, and a build that appears whole or not at all.

    knowledge.json       encoder, prompts, split, dataset, date, token counts, sha256 of the other files
    items.npz            ids, vectors float16 (n_items, D)
    users.npz            ids, vectors float16 (n_users, D)
    similar_users.npz    ids, neighbours int32 (n_users, n), rows of ids
    item_pca.npz         mean (D,), components (P, D), explained_variance (P,)

A build works in `.<name>.building` beside the folder and renames it at the end. An interrupted build leaves
that working folder; the next build takes from it, or from the folder it replaces, every encoded file whose inputs are
unchanged.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import KnowledgeError

PROVENANCE: Final = "knowledge.json"
ITEMS: Final = "items.npz"
USERS: Final = "users.npz"
SIMILAR: Final = "similar_users.npz"
PCA: Final = "item_pca.npz"
ARRAYS: Final = (ITEMS, USERS, SIMILAR, PCA)
REQUIRED: Final = ("encoder", "test_only", "dataset", "split", "prompts", "files", "created")


def read_provenance(folder: Path) -> dict[str, Any]:
    """What knowledge.json of `folder` says.

    Raises:
        KnowledgeError: it is not there or not JSON.
    """
    try:
        provenance = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    except OSError as error:
        raise KnowledgeError(f"{folder}: no {PROVENANCE} ({error.strerror}), expected a knowledge folder") from error
    except ValueError as error:
        raise KnowledgeError(f"{folder / PROVENANCE}: not JSON ({error})") from error
    missing = [key for key in REQUIRED if key not in provenance] if isinstance(provenance, dict) else [*REQUIRED]
    if missing:
        raise KnowledgeError(
            f"{folder / PROVENANCE}: no {', '.join(missing)}; expected what `python -m models knowledge build` writes"
        )
    return dict(provenance)


def check_files(folder: Path, provenance: Mapping[str, Any], names: Sequence[str] = ARRAYS) -> None:
    """Nothing if every file is the one knowledge.json was written for, else KnowledgeError naming the file."""
    for name in names:
        recorded = provenance["files"].get(name, {}).get("sha256")
        if not (folder / name).is_file():
            raise KnowledgeError(f"{folder / name}: missing, expected the knowledge folder to hold {', '.join(names)}")
        if (found := sha256_of(folder / name)) != recorded:
            raise KnowledgeError(f"{folder / name}: sha256 is {found}, {PROVENANCE} says {recorded}")


def read_arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    """The named arrays of an .npz file; KnowledgeError names one that is missing."""
    with np.load(path, allow_pickle=False) as arrays:
        for name in names:
            if name not in arrays:
                raise KnowledgeError(f"{path}: array '{name}' is missing, found {', '.join(arrays) or 'none'}")
        return [arrays[name] for name in names]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file whole or not at all."""
    fresh = path.with_name(path.name + ".tmp")
    fresh.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(fresh, path)


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Building:
    """The working folder of one build of the files `names`; `finish` puts it in the place of `folder`."""

    def __init__(self, folder: Path, names: Sequence[str] = ARRAYS) -> None:
        self.folder, self.names = folder.absolute(), names
        self.work = self.folder.parent / f".{self.folder.name}.building"
        check_replaceable(self.folder, names)
        self.work.mkdir(parents=True, exist_ok=True)
        self._notes: dict[str, dict[str, Any]] = {}

    def reuse(self, name: str, key: str) -> dict[str, Any] | None:
        """The note of file `name` if an earlier build made it from the same inputs (`key`), which is then kept."""
        note = _note_of(self.work / name, key)
        # `finish` may have been cut short: then the working folder is complete, and the other one may be gone.
        note = note or self._copied_from(self.work, name, key) or self._copied_from(self.folder, name, key)
        if note is not None:
            self._notes[name] = note
        return note

    def write(self, name: str, arrays: Mapping[str, NDArray[Any]], note: Mapping[str, Any]) -> None:
        """Writes an .npz file and its note; the note comes last, so a file without one is unfinished."""
        path = self.work / name
        _note_path(path).unlink(missing_ok=True)
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]  # numpy types **kwds as allow_pickle
        self._notes[name] = {**note, "sha256": sha256_of(path)}
        write_json(_note_path(path), self._notes[name])

    def read(self, name: str, *names: str) -> list[NDArray[Any]]:
        """The named arrays of a file of this build."""
        return read_arrays(self.work / name, *names)

    def finish(self, provenance: Mapping[str, Any]) -> None:
        """Writes knowledge.json and renames the working folder; what stood there before is removed afterwards."""
        write_json(self.work / PROVENANCE, {**provenance, "files": {name: self._notes[name] for name in self.names}})
        for path in self.work.iterdir():
            if path.name not in (*self.names, PROVENANCE):
                path.unlink()
        old = self.folder.parent / f".{self.folder.name}.old"
        shutil.rmtree(old, ignore_errors=True)
        if self.folder.exists():
            os.rename(self.folder, old)
        os.rename(self.work, self.folder)
        shutil.rmtree(old, ignore_errors=True)

    def _copied_from(self, folder: Path, name: str, key: str) -> dict[str, Any] | None:
        """The note of a file of the finished `folder` if its inputs are the same; the file is then in this build."""
        try:
            note: dict[str, Any] = read_provenance(folder)["files"].get(name, {})
            if note.get("key") != key or sha256_of(folder / name) != note["sha256"]:
                return None
        except (KnowledgeError, OSError, KeyError):
            return None
        if folder != self.work:
            shutil.copyfile(folder / name, self.work / name)
        return note


def check_replaceable(folder: Path, names: Sequence[str] = ARRAYS) -> None:
    """Nothing if `folder` may be written; KnowledgeError if it holds anything that is not knowledge."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise KnowledgeError(f"{folder}: is a file, expected a folder to write knowledge to")
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in (*names, PROVENANCE))
    if foreign:
        raise KnowledgeError(
            f"{folder}: holds {', '.join(foreign[:5])}, which no knowledge has; "
            "expected a new folder or one with knowledge alone"
        )


def _note_path(path: Path) -> Path:
    return path.with_name(path.name + ".note")


def _note_of(path: Path, key: str) -> dict[str, Any] | None:
    try:
        note: dict[str, Any] = json.loads(_note_path(path).read_text(encoding="utf-8"))
        return note if note["key"] == key and sha256_of(path) == note["sha256"] else None
    except (OSError, ValueError, KeyError):
        return None
