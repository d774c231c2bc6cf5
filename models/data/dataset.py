"""A dataset folder in memory: ids, chronological sequences and item texts, all aligned.

A folder holds `interactions.parquet` (user_id, item_id, and where known timestamp in seconds, position, rating, label,
scenario, session_id), `items.parquet` (item_id, title, text columns) and `users.parquet`; only the first is required.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.data.folder import INTERACTIONS, ITEMS, digest_of, read_tables, write_dataset
from models.data.sequences import Sequences
from models.errors import DatasetError

__all__ = ["HTTP_ID", "NO_TIMESTAMP", "Dataset", "Sequences", "dataset_from_tables", "read_dataset", "write_dataset"]

# Stands in `Dataset.timestamps` where some rows of a set have a time and this one has none.
NO_TIMESTAMP: Final[int] = int(np.iinfo(np.int64).min)
# What the service takes as an id. Reading allows others, since a dataset may serve offline work alone.
HTTP_ID: Final = re.compile(r"[A-Za-z0-9_.:@-]{1,128}")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Interactions as one chronological sequence per user, with the catalogue they point into.

    `item_index` of `item_ids[i]` is `i + 1`; 0 is padding. Arrays called aligned have one entry per entry of
    `sequences.items`. The catalogue is every item of `items.parquet` and every item anyone interacted with.
    """

    name: str
    item_ids: tuple[str, ...]  # ascending string order
    user_ids: tuple[str, ...]  # ascending string order; session ids in an anonymous set
    sequences: Sequences  # row = user; by position where there is one, else timestamp; ties in file order
    timestamps: NDArray[np.int64] | None  # aligned, seconds; NO_TIMESTAMP where unknown; None if unknown throughout
    scenarios: NDArray[np.int64] | None  # aligned, row of scenario_names
    scenario_names: tuple[str, ...]  # ascending string order
    session_ids: NDArray[np.object_] | None  # aligned, str or None
    items: Any  # pyarrow.Table, one row per item_ids
    digest: str  # sha256 over the Parquet files
    declared_split: NDArray[np.object_] | None = None  # aligned, str or None: the column `split`, where there is one

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_interactions(self) -> int:
        return len(self.sequences.items)

    def item_titles(self) -> list[str]:
        """One text per item: the first of `title` and `generated_text_id` that is not empty, else ''."""
        titles = self._texts("title")
        return [title or text_id for title, text_id in zip(titles, self._texts("generated_text_id"), strict=True)]

    def item_categories(self) -> list[str]:
        """One category per item, '' where it has none."""
        return self._texts("category")

    def _texts(self, column: str) -> list[str]:
        if column not in self.items.column_names:
            return [""] * self.n_items
        return [str(value).strip() if value is not None else "" for value in self.items.column(column).to_pylist()]


def read_dataset(folder: Path) -> Dataset:
    """The dataset in `folder`.

    Raises:
        DatasetError: a file or column is missing, an id is null or repeated, or a user's events cannot be ordered;
            the message names the file, the column and the first row (counted from 0).
    """
    folder = Path(folder)
    tables = read_tables(folder)
    return dataset_from_tables(
        folder.resolve().name, tables.interactions, tables.items, digest=digest_of(folder), where=str(folder)
    )


def dataset_from_tables(
    name: str, interactions: pa.Table, items: pa.Table | None, *, digest: str = "", where: str = ""
) -> Dataset:
    """The dataset that `interactions` and `items` describe; `where` is the folder that messages name."""
    here = f"{where}/" if where else ""
    if not interactions.num_rows:
        raise DatasetError(f"{here}{INTERACTIONS}: has no rows, expected at least one interaction")
    users = _string_ids(interactions, "user_id", here + INTERACTIONS)
    item_column = _string_ids(interactions, "item_id", here + INTERACTIONS)
    if items is None:
        items = pa.table({"item_id": pa.array([], pa.string()), "title": pa.array([], pa.string())})
    listed = _string_ids(items, "item_id", here + ITEMS)
    _require_unique(listed, "item_id", here + ITEMS)

    user_ids = _ascending(users.dictionary)
    item_ids = _ascending(pa.concat_arrays([listed.dictionary, item_column.dictionary]))
    user_rows = _rows_in(users, user_ids)
    order = _chronological_order(interactions, user_rows, here + INTERACTIONS)

    timestamps = _timestamps(interactions, here + INTERACTIONS)
    scenarios, scenario_names = _scenarios(interactions, here + INTERACTIONS)
    sessions, declared = _texts_of(interactions, "session_id"), _texts_of(interactions, "split")
    return Dataset(
        name=name,
        item_ids=tuple(item_ids.to_pylist()),
        user_ids=tuple(user_ids.to_pylist()),
        sequences=Sequences.from_lengths(
            (_rows_in(item_column, item_ids) + 1)[order], np.bincount(user_rows, minlength=len(user_ids))
        ),
        timestamps=None if timestamps is None else timestamps[order],
        scenarios=None if scenarios is None else scenarios[order],
        scenario_names=scenario_names,
        session_ids=None if sessions is None else sessions[order],
        items=_aligned_items(items, listed, item_ids),
        digest=digest,
        declared_split=None if declared is None else declared[order],
    )


def _string_ids(table: pa.Table, column: str, file: str) -> pa.DictionaryArray:
    """An id column, dictionary-encoded to strings; integers become their decimal form."""
    if column not in table.column_names:
        raise DatasetError(f"{file}: column '{column}' is missing, found {', '.join(table.column_names) or 'none'}")
    values = table.column(column)
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DatasetError(f"{file}: column '{column}' is {values.type}, expected string or integer")
    if values.null_count:
        raise DatasetError(f"{file}: column '{column}' is null in {_rows(pc.is_null(values))}, expected an id")
    encoded = values.cast(kind).combine_chunks().dictionary_encode()
    encoded = pa.DictionaryArray.from_arrays(encoded.indices, encoded.dictionary.cast(pa.string()))
    if pc.any(pc.equal(encoded.dictionary, "")).as_py():
        empty = pc.equal(encoded.dictionary, "").take(encoded.indices)
        raise DatasetError(f"{file}: column '{column}' is empty in {_rows(empty)}, expected an id")
    return encoded


def _require_unique(ids: pa.DictionaryArray, column: str, file: str) -> None:
    counts = np.bincount(ids.indices.to_numpy(), minlength=len(ids.dictionary))
    if repeated := np.flatnonzero(counts > 1).tolist():
        first = ids.dictionary[repeated[0]].as_py()
        at = np.flatnonzero(ids.indices.to_numpy() == repeated[0])[:2].tolist()
        raise DatasetError(
            f"{file}: column '{column}' must be unique, but {len(repeated)} ids repeat: "
            f"{first!r} stands in rows {at[0]} and {at[1]}"
        )


def _ascending(ids: pa.Array) -> pa.Array:
    unique = pc.unique(ids)
    return unique.take(pc.sort_indices(unique))  # UTF-8 byte order, which is Python's order of str


def _rows_in(encoded: pa.DictionaryArray, ids: pa.Array) -> NDArray[np.int64]:
    """int64 (rows,): the place of every value in `ids`."""
    place: NDArray[np.int64] = pc.index_in(encoded.dictionary, value_set=ids).to_numpy().astype(np.int64)
    rows: NDArray[np.int64] = place[encoded.indices.to_numpy()]
    return rows


def _chronological_order(table: pa.Table, user_rows: NDArray[np.int64], file: str) -> NDArray[np.int64]:
    """int64 (rows,): file rows by user, within a user by position, else by timestamp, ties in file order."""
    for column in ("position", "timestamp"):
        if not _has_values(table, column):
            continue
        if table.column(column).null_count:
            unknown = _rows(pc.is_null(table.column(column)))
            raise DatasetError(f"{file}: column '{column}' orders the events but is null in {unknown}")
        key: Any = _timestamps(table, file) if column == "timestamp" else table.column(column).to_numpy()
        return np.lexsort((key, user_rows))  # stable: ties keep their order in the file
    return np.argsort(user_rows, kind="stable")


def _timestamps(table: pa.Table, file: str) -> NDArray[np.int64] | None:
    if not _has_values(table, "timestamp"):
        return None
    column = table.column("timestamp")
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("s"), safe=False)
    elif pa.types.is_floating(column.type):
        column = pc.floor(column)
    elif not pa.types.is_integer(column.type):
        raise DatasetError(f"{file}: column 'timestamp' is {column.type}, expected whole seconds (int64)")
    seconds: NDArray[np.int64] = column.cast(pa.int64()).fill_null(NO_TIMESTAMP).to_numpy()
    return seconds


def _scenarios(table: pa.Table, file: str) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    if not _has_values(table, "scenario"):
        return None, ()
    encoded = _string_ids(table, "scenario", file)
    names = _ascending(encoded.dictionary)
    return _rows_in(encoded, names), tuple(names.to_pylist())


def _texts_of(table: pa.Table, column: str) -> NDArray[np.object_] | None:
    if not _has_values(table, column):
        return None
    texts: NDArray[np.object_] = table.column(column).cast(pa.string()).to_numpy()
    return texts


def _aligned_items(items: pa.Table, listed: pa.DictionaryArray, item_ids: pa.Array) -> pa.Table:
    """The item table with one row per id of `item_ids`; items known from interactions alone get nulls."""
    aligned = items.take(pc.index_in(item_ids, value_set=listed.cast(pa.string())))
    aligned = aligned.set_column(aligned.column_names.index("item_id"), "item_id", item_ids)
    if "title" not in aligned.column_names:
        aligned = aligned.append_column("title", pa.nulls(len(item_ids), pa.string()))
    return aligned


def _has_values(table: pa.Table, column: str) -> bool:
    return column in table.column_names and table.column(column).null_count < table.num_rows


def _rows(mask: Any) -> str:
    at = np.flatnonzero(np.asarray(mask.to_numpy(zero_copy_only=False) if hasattr(mask, "to_numpy") else mask))
    return f"row {at[0]}" + (f" and {len(at) - 1} more" if len(at) > 1 else "")
