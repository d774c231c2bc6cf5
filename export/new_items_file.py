"""A file of new items as a table of texts: Parquet, CSV or JSON Lines in the columns of a dataset's items.parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from export.errors import ExportError
from service.artefact.tables import ITEM_ID

_SHOWN: Final = 5
_JSON_BLOCK_BYTES: Final = 1 << 26  # one line has to fit; descriptions are long


def read_new_items(path: Path) -> pa.Table:
    """The items of the file in ascending item_id order: item_id as strings, every other column as it is.

    Raises:
        ExportError: the file cannot be read, has no items, or an id is missing, repeated or none the service takes.
    """
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise ExportError(f"{path}: ends in {path.suffix or 'nothing'!r}, expected {', '.join(_READERS)}")
    try:
        table = reader(path)
    except (pa.ArrowException, OSError) as error:
        raise ExportError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
    if "item_id" not in table.column_names:
        raise ExportError(
            f"{path}: column 'item_id' is missing, found {', '.join(table.column_names) or 'none'}; "
            "expected item_id, title and text columns such as category"
        )
    if not table.num_rows:
        raise ExportError(f"{path}: has no items")
    ids = _ids(path, table["item_id"])
    table = table.set_column(table.column_names.index("item_id"), "item_id", ids)
    return table.take(pc.sort_indices(ids))


def some(ids: Sequence[str]) -> str:
    """The first few of `ids`, for a message."""
    return ", ".join(ids[:_SHOWN]) + (", …" if len(ids) > _SHOWN else "")


def _ids(path: Path, column: pa.ChunkedArray) -> pa.Array:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ExportError(f"{path}: column 'item_id' is {column.type}, expected string or integer")
    if column.null_count:
        raise ExportError(f"{path}: item_id is null in {column.null_count} of {len(column)} rows")
    ids = column.cast(kind).cast(pa.string()).combine_chunks()
    listed: list[str] = ids.to_pylist()
    if repeated := sorted(item_id for item_id, count in Counter(listed).items() if count > 1):
        raise ExportError(f"{path}: item_id must be unique, {len(repeated)} repeat ({some(repeated)})")
    if strange := [item_id for item_id in listed if not ITEM_ID.fullmatch(item_id)]:
        raise ExportError(
            f"{path}: {len(strange)} ids ({some([repr(item_id) for item_id in strange])}) are not 1 to 128 characters "
            "of [A-Za-z0-9_.:@-]"
        )
    return ids


def _csv(path: Path) -> pa.Table:
    """Every column as text: an id of digits keeps its zeros, a title "2024" stays a title. Empty cells are unknown."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        header = stream.readline()
    names = pa.csv.read_csv(pa.BufferReader(header.encode())).column_names if header.strip() else []
    options = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
    )
    return pa.csv.read_csv(path, parse_options=pa.csv.ParseOptions(newlines_in_values=True), convert_options=options)


def _json_lines(path: Path) -> pa.Table:
    return pa.json.read_json(path, read_options=pa.json.ReadOptions(block_size=_JSON_BLOCK_BYTES))


_READERS: Final[dict[str, Callable[[Path], pa.Table]]] = {
    ".parquet": pq.read_table,
    ".csv": _csv,
    ".jsonl": _json_lines,
}
