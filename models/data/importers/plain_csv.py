"""Plain CSV files whose columns the caller names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from models.data.importers.items import ItemRows
from models.data.importers.rows import (
    EventRows,
    Imported,
    Rejects,
    RowError,
    TimeUnit,
    column_of,
    csv_rows,
    parse_id,
    parse_integer,
    parse_label,
    parse_number,
    parse_time,
)


@dataclass(frozen=True)
class InteractionColumns:
    """The names of the columns in the caller's file; None: the file has no such column."""

    user: str
    item: str
    timestamp: str | None = None
    time_unit: TimeUnit = TimeUnit.s
    position: str | None = None
    rating: str | None = None
    label: str | None = None
    scenario: str | None = None
    session: str | None = None


@dataclass(frozen=True)
class ItemColumns:
    """As `InteractionColumns`, for the item file; every other column is kept as a text under its own name."""

    item: str = "item_id"
    title: str = "title"
    category: str | None = None


def read_csv(
    interactions: Path,
    columns: InteractionColumns,
    items: Path | None = None,
    item_columns: ItemColumns | None = None,
    delimiter: str = ",",
) -> Imported:
    """Interactions and, where given, items of CSV files with a header line; `.gz` is unpacked on the way.

    Without a timestamp or position the order of the rows is the order of the events.

    Raises:
        DatasetError: a file cannot be opened, or lacks a column that was named.
    """
    rejects = Rejects()
    events = _interactions(interactions, columns, delimiter, rejects)
    table = _items(items, item_columns or ItemColumns(), delimiter, rejects) if items else None
    return Imported(events, table, None, rejects.rows)


def _interactions(path: Path, columns: InteractionColumns, delimiter: str, rejects: Rejects) -> pa.Table:
    readers: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "user_id": (columns.user, lambda value: parse_id(value, "user_id")),
        "item_id": (columns.item, lambda value: parse_id(value, "item_id")),
    }
    optional: dict[str, tuple[str | None, Callable[[Any], Any]]] = {
        "timestamp": (columns.timestamp, lambda value: parse_time(value, columns.time_unit)),
        "position": (columns.position, lambda value: parse_integer(value, "position")),
        "rating": (columns.rating, lambda value: parse_number(value, "rating")),
        "label": (columns.label, lambda value: parse_label(value, "label")),
        "scenario": (columns.scenario, lambda value: parse_id(value, "scenario")),
        "session_id": (columns.session, lambda value: parse_id(value, "session_id")),
    }
    readers |= {name: (column, parse) for name, (column, parse) in optional.items() if column is not None}
    rows = csv_rows(path, delimiter, rejects)
    _, header = next(rows)
    cells = [(column_of(header, column, path), parse) for column, parse in readers.values()]
    events = EventRows(*list(readers)[2:])
    for line, fields in rows:
        try:
            values = [parse(fields[cell]) for cell, parse in cells]
        except RowError as reason:
            rejects.add(path, line, reason, delimiter.join(fields))
        else:
            events.add(*values)
            rejects.accept(path)
    return events.table(path)


def _items(path: Path, columns: ItemColumns, delimiter: str, rejects: Rejects) -> pa.Table:
    rows = csv_rows(path, delimiter, rejects)
    _, header = next(rows)
    item_cell = column_of(header, columns.item, path)
    renamed = {column_of(header, columns.title, path): "title"}
    if columns.category is not None:
        renamed[column_of(header, columns.category, path)] = "category"
    names = {cell: renamed.get(cell, name) for cell, name in enumerate(header) if cell != item_cell}
    items = ItemRows(*names.values())
    for line, fields in rows:
        texts = {name: fields[cell] for cell, name in names.items()}
        items.add_or_reject(path, line, fields[item_cell], texts, rejects, delimiter.join(fields))
    return items.table()
