"""The item tables of an artefact, memory-mapped, and the catalogue beside them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from service.artefact.manifest import ItemTableSpec

ITEM_ID = re.compile(r"[A-Za-z0-9_.:@-]{1,128}")

CATALOGUE_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("category", pa.string()),
        pa.field("popularity", pa.int64(), nullable=False),
        pa.field("available", pa.bool_(), nullable=False),
    ]
)

_SCAN_BYTES = 1 << 24


@dataclass(frozen=True)
class Catalogue:
    """What is known of each item, rows 1..n_items of every item table in order (so entry 0 is item index 1)."""

    item_ids: list[str]
    titles: list[str | None]
    categories: list[str | None]
    popularity: NDArray[np.int64]
    available: NDArray[np.bool_]

    def faults(self) -> list[str]:
        """One sentence per kind of bad item: an id outside the alphabet, an id twice, a negative count."""
        faults = []
        bad = [row for row, item_id in enumerate(self.item_ids, 1) if not ITEM_ID.fullmatch(item_id)]
        if bad:
            faults.append(
                f"item_id {self.item_ids[bad[0] - 1]!r} in row {bad[0]} is not 1 to 128 characters of "
                f"[A-Za-z0-9_.:@-]{_more(bad)}"
            )
        seen: dict[str, int] = {}
        twice = [row for row, item_id in enumerate(self.item_ids, 1) if seen.setdefault(item_id, row) != row]
        if twice:
            item_id = self.item_ids[twice[0] - 1]
            faults.append(f"item_id {item_id!r} is in row {seen[item_id]} and again in row {twice[0]}{_more(twice)}")
        negative = (np.flatnonzero(self.popularity < 0) + 1).tolist()
        if negative:
            found = self.popularity[negative[0] - 1]
            faults.append(f"popularity in row {negative[0]} is {found}, expected at least 0{_more(negative)}")
        return faults

    def is_sorted(self, n_items: int) -> bool:
        """True when the first `n_items` rows ascend by item_id, so that the lowest index is the lowest item_id."""
        return all(before < after for before, after in pairwise(self.item_ids[:n_items]))

    def to_table(self) -> pa.Table:
        columns = [self.item_ids, self.titles, self.categories, self.popularity, self.available]
        return pa.table(
            [pa.array(values, type=f.type) for values, f in zip(columns, CATALOGUE_SCHEMA, strict=True)],
            schema=CATALOGUE_SCHEMA,
        )


def npy_header_bytes(path: Path) -> int:
    """Offset of the first array byte of a .npy file."""
    with path.open("rb") as stream:
        _read_header(stream)
        return stream.tell()


def open_table(path: Path, spec: ItemTableSpec) -> tuple[NDArray[Any] | None, list[str]]:
    """The table, memory-mapped read-only, or no table and why. NaN and infinity are refused."""
    name = path.name
    try:
        with path.open("rb") as stream:
            shape, fortran, dtype = _read_header(stream)
            data_bytes = path.stat().st_size - stream.tell()
    except (ValueError, EOFError) as error:
        return None, [f"{name}: is not a readable .npy file ({error})"]
    faults = []
    if str(dtype) != spec.dtype:
        faults.append(f"{name}: dtype is {dtype}, the manifest says {spec.dtype}")
    if list(shape) != spec.shape:
        faults.append(f"{name}: shape is {list(shape)}, the manifest says {spec.shape}")
    if fortran:
        faults.append(f"{name}: is in Fortran order, expected C order")
    expected_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if data_bytes != expected_bytes:
        faults.append(f"{name}: holds {data_bytes} bytes of data, its header announces {expected_bytes}")
    if faults:
        return None, faults
    table: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    row = _first_non_finite_row(table)
    if row is not None:
        return None, [f"{name}: row {row} holds NaN or infinity"]
    return table, []


def read_catalogue(path: Path, n_items: int) -> tuple[Catalogue | None, list[str]]:
    """`items.parquet` as columns, or nothing and why."""
    name = path.name
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        return None, [f"{name}: is not a readable Parquet file ({error})"]
    expected = {field.name: field.type for field in CATALOGUE_SCHEMA}
    found = {field.name: field.type for field in table.schema}
    if found != expected:
        return None, [f"{name}: columns are {_columns(found)}, expected {_columns(expected)}"]
    faults = [
        f"{name}: column {field.name} holds {table[field.name].null_count} nulls"
        for field in CATALOGUE_SCHEMA
        if not field.nullable and table[field.name].null_count
    ]
    if table.num_rows != n_items:
        faults.append(f"{name}: has {table.num_rows} rows, the manifest says n_items is {n_items}")
    if faults:
        return None, faults
    catalogue = Catalogue(
        item_ids=table["item_id"].to_pylist(),
        titles=table["title"].to_pylist(),
        categories=table["category"].to_pylist(),
        popularity=table["popularity"].to_numpy(),
        available=table["available"].to_numpy(),
    )
    faults = [f"{name}: {fault}" for fault in catalogue.faults()]
    return (None, faults) if faults else (catalogue, [])


def _read_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"format version {version} is not 1.0 or 2.0")


def _first_non_finite_row(table: NDArray[Any]) -> int | None:
    if not np.issubdtype(table.dtype, np.floating) or table.size == 0:
        return None
    step = max(1, _SCAN_BYTES // max(1, table[0].nbytes))
    for start in range(0, len(table), step):
        block = table[start : start + step]
        finite = np.isfinite(block).reshape(len(block), -1).all(axis=1)
        if not finite.all():
            return start + int(np.argmin(finite))
    return None


def _columns(fields: dict[str, pa.DataType]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in fields.items())


def _more(rows: list[int]) -> str:
    return f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
