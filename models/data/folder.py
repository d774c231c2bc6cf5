"""The dataset folder on disk: which files, read as tables, written all at once or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import DatasetError

INTERACTIONS: Final = "interactions.parquet"
ITEMS: Final = "items.parquet"
USERS: Final = "users.parquet"
IMPRESSIONS: Final = "impressions.parquet"
REJECTED: Final = "rejected.jsonl"
PARQUET_FILES: Final = (INTERACTIONS, ITEMS, USERS, IMPRESSIONS)
FILES: Final = (*PARQUET_FILES, REJECTED)


class Tables(NamedTuple):
    """The Parquet files of a dataset folder; None where the file is not there."""

    interactions: pa.Table
    items: pa.Table | None
    users: pa.Table | None
    impressions: (
        pa.Table | None
    )  # everything shown: user_id, item_id, timestamp, scenario, session_id, label 1 = clicked


def read_tables(folder: Path) -> Tables:
    """The tables of a dataset folder, columns as they are on disk.

    Raises:
        DatasetError: the folder or `interactions.parquet` is missing, or a file is not Parquet.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder, expected a dataset with {INTERACTIONS}")
    if not (folder / INTERACTIONS).is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise DatasetError(f"{folder}: {INTERACTIONS} is missing, found {found}")
    return Tables(*(_read_parquet(folder / file) for file in PARQUET_FILES))


def digest_of(folder: Path) -> str:
    """sha256 (hex) over the names and bytes of the folder's Parquet files."""
    total = hashlib.sha256()
    for file in PARQUET_FILES:
        if (folder / file).is_file():
            with (folder / file).open("rb") as stream:
                total.update(f"{file} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def write_dataset(
    folder: Path,
    interactions: pa.Table,
    items: pa.Table | None,
    users: pa.Table | None = None,
    *,
    impressions: pa.Table | None = None,
    rejected: Iterable[Mapping[str, Any]] = (),
) -> None:
    """Writes the dataset folder; it appears complete or not at all, and replaces a dataset of that name.

    Args:
        impressions: what was shown, clicked or not; rankers learn from it, sequences never see it.
        rejected: rows an importer could not read, one JSON object a line in `rejected.jsonl`; no file if none.

    Raises:
        DatasetError: `folder` exists and holds something that is not part of a dataset.
    """
    folder = Path(folder)
    check_writable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        fresh.chmod(0o755)  # mkdtemp makes it private; a dataset is readable like any other folder
        for name, table in zip(PARQUET_FILES, (interactions, items, users, impressions), strict=True):
            if table is not None:
                pq.write_table(table, fresh / name, compression="zstd")
        rejected = list(rejected)
        if rejected:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rejected)
            (fresh / REJECTED).write_text("".join(lines), encoding="utf-8")
        _put_in_place(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def check_writable(folder: Path, *, force: bool = True) -> None:
    """Raises DatasetError if `folder` holds other things than a dataset, or without `force` anything at all."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DatasetError(f"{folder}: is a file, expected a folder to write a dataset to")
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in FILES)
    if foreign:
        raise DatasetError(
            f"{folder}: holds {', '.join(foreign[:5])}, which no dataset has; "
            "expected a new folder or one with a dataset alone"
        )
    if not force and any(folder.iterdir()):
        raise DatasetError(f"{folder}: holds a dataset already, expected a new folder; --force replaces it")


def _put_in_place(fresh: Path, folder: Path) -> None:
    """Renames `fresh` to `folder`; what was there is moved aside first and removed afterwards."""
    if not folder.exists():
        os.replace(fresh, folder)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    try:
        os.replace(folder, aside / "dataset")
        try:
            os.replace(fresh, folder)
        except BaseException:
            os.replace(aside / "dataset", folder)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _read_parquet(path: Path) -> pa.Table | None:
    if not path.is_file():
        return None
    try:
        return pq.read_table(path, use_threads=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise DatasetError(f"{path}: cannot be read as Parquet: {error}") from error
