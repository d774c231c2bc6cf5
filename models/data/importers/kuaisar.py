"""KuaiSAR (arXiv:2306.07705), the small set and the full one: short videos recommended and searched for.

Columns as its page of descriptions gives them. Search shows live streams and profiles too; they are kept as items, with
no text where `item_features.csv` has none.
"""

from __future__ import annotations

from datetime import timedelta, timezone
from pathlib import Path
from typing import Final

import pyarrow as pa

from models.data.importers.items import ItemRows
from models.data.importers.rows import (
    EventRows,
    Imported,
    Rejects,
    RowError,
    TimeUnit,
    csv_columns,
    parse_id,
    parse_integer,
    parse_time,
)
from models.data.importers.shown import imported_from

# File, its columns of the time and of the click, scenario. Clicks of a search are counted, those of a feed are 0 or 1.
LOGS: Final = (
    ("rec_inter.csv", "time", "click", "recommendation"),
    ("src_inter.csv", "search_session_time", "click_cnt", "search"),
)
LEVELS: Final = tuple(f"{level}_level_category_name_en" for level in ("first", "second", "third", "fourth"))
NO_LEVEL: Final = ("", "empty")  # how the file says that a category has no such level
BEIJING: Final = timezone(timedelta(hours=8))


def read_kuaisar(folder: Path) -> Imported:
    """Impressions and clicks (timestamp, scenario) and items (caption, category, author_id) of an unpacked folder.

    A caption is a list of numbers that stand for words, as published.

    Raises:
        DatasetError: a file is missing, lacks a column, or cannot be read at all.
    """
    rejects = Rejects()
    events = EventRows("timestamp", "scenario", "label")
    paths = [folder / file for file, *_ in LOGS]
    for path, (_, time, click, scenario) in zip(paths, LOGS, strict=True):
        for line, fields in csv_columns(path, ("user_id", "item_id", time, click), rejects):
            try:
                values = (
                    parse_id(fields[0], "user_id"),
                    parse_id(fields[1], "item_id"),
                    parse_time(fields[2], TimeUnit.iso, BEIJING),
                    scenario,
                    int(parse_integer(fields[3], click) > 0),
                )
            except RowError as reason:
                rejects.add(path, line, reason, ",".join(fields))
            else:
                events.add(*values)
                rejects.accept(path)
    return imported_from(events.table(*paths), _items(folder / "item_features.csv", rejects), rejects, *paths)


def _items(path: Path, rejects: Rejects) -> pa.Table:
    items = ItemRows("caption", "category", "author_id")
    for line, (item, caption, author, *levels) in csv_columns(
        path, ("item_id", "caption", "author_id", *LEVELS), rejects
    ):
        category = " > ".join(level for level in levels if level not in NO_LEVEL)
        items.add_or_reject(path, line, item, {"caption": caption, "category": category, "author_id": author}, rejects)
    return items.table()
