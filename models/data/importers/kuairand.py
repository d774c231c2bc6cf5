"""KuaiRand (arXiv:2208.08696), Pure, 1K and 27K: short videos in up to 15 tabs of an app, its scenarios.

Columns as its README gives them. `log_random_*` is not read: what it shows was drawn, not recommended.
"""

from __future__ import annotations

from pathlib import Path

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
    parse_label,
    parse_time,
)
from models.data.importers.shown import imported_from
from models.errors import DatasetError

LOG_COLUMNS = ("user_id", "video_id", "time_ms", "tab", "is_click")


def read_kuairand(folder: Path) -> Imported:
    """Impressions and clicks (timestamp, scenario) and items (category = tags, author_id) of an unpacked folder.

    In tabs that play one video after the other a click is one that was watched for long enough, as published.

    Raises:
        DatasetError: a file is missing, lacks a column, or cannot be read at all.
    """
    logs, videos = _files(folder, "log_standard_*.csv"), _files(folder, "video_features_basic_*.csv")
    rejects = Rejects()
    events = EventRows("timestamp", "scenario", "label")
    for path in logs:
        for line, fields in csv_columns(path, LOG_COLUMNS, rejects):
            user, video, time, tab, click = fields
            try:
                values = (
                    parse_id(user, "user_id"),
                    parse_id(video, "video_id"),
                    parse_time(time, TimeUnit.ms),
                    parse_id(tab, "tab"),
                    parse_label(click, "is_click"),
                )
            except RowError as reason:
                rejects.add(path, line, reason, ",".join(fields))
            else:
                events.add(*values)
                rejects.accept(path)
    return imported_from(events.table(*logs), _items(videos, rejects), rejects, *logs)


def _items(paths: list[Path], rejects: Rejects) -> pa.Table:
    items = ItemRows("category", "author_id")
    for path in paths:
        for line, (video, tags, author) in csv_columns(path, ("video_id", "tag", "author_id"), rejects):
            items.add_or_reject(path, line, video, {"category": tags, "author_id": author}, rejects)
    return items.table()


def _files(folder: Path, pattern: str) -> list[Path]:
    """Files in the folder, or in its `data` as the archive has it; by name, which is by time."""
    found = sorted(folder.glob(pattern)) or sorted((folder / "data").glob(pattern))
    if not found:
        raise DatasetError(f"{folder}: no {pattern} in it nor in its data/, expected an unpacked KuaiRand folder")
    return found
