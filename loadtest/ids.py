"""Item ids to build a workload from: a text file, an artefact's or a dataset's items.parquet."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loadtest.errors import InputError

# What the service accepts as an id; others would be answered 422 and measure nothing.
VALID_ID = re.compile(r"[A-Za-z0-9_.:@-]{1,128}\Z")


def read_item_ids(source: Path) -> list[str]:
    """Item ids, the most popular first where the source knows popularity.

    Args:
        source: a text file with one id a line; an `items.parquet`; or a folder that holds one (artefact or dataset).

    Raises:
        InputError: the source is missing, empty, or holds an id the service would refuse.
    """
    path = source / "items.parquet" if source.is_dir() else source
    if not path.is_file():
        raise InputError(f"item ids: {path} is not a file; expected a text file, an items.parquet or a folder with one")
    item_ids = _from_parquet(path) if path.suffix == ".parquet" else _from_text(path)
    if not item_ids:
        raise InputError(f"item ids: {path} holds no item")
    return check_ids(item_ids, str(path))


def check_ids(item_ids: Iterable[str], origin: str) -> list[str]:
    """The same ids as a list; InputError names the first that the service would refuse."""
    checked = list(item_ids)
    for item_id in checked:
        if not VALID_ID.match(item_id):
            raise InputError(f"item ids: {origin} holds {item_id!r}; expected 1-128 characters of [A-Za-z0-9_.:@-]")
    return checked


def _from_text(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _from_parquet(path: Path) -> list[str]:
    names = pq.read_schema(path).names
    if "item_id" not in names:
        raise InputError(f"item ids: {path} has the columns {names}; expected item_id among them")
    wanted = [name for name in ("item_id", "popularity", "available") if name in names]
    table = pq.read_table(path, columns=wanted)
    if "available" in wanted:
        table = table.filter(table["available"])
    if "popularity" in wanted:
        table = table.sort_by([("popularity", "descending"), ("item_id", "ascending")])
    item_ids: list[str] = pc.cast(table["item_id"], pa.string()).to_pylist()
    return item_ids
