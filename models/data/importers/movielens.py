"""MovieLens folders: `ratings.dat` and friends (1M, 10M), or `ratings.csv` and `movies.csv` (20M, 25M, 32M, latest)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from models.data.importers.items import ItemRows
from models.data.importers.rows import (
    EventRows,
    Imported,
    Rejects,
    RowError,
    csv_columns,
    lines_of,
    parse_id,
    parse_number,
    parse_time,
)
from models.errors import DatasetError


def read_movielens(folder: Path) -> Imported:
    """Interactions (timestamp, rating), items (title, category = genres) and, where given, users of a MovieLens folder.

    Raises:
        DatasetError: the folder holds neither shape, or a file cannot be read at all.
    """
    rejects = Rejects()
    if (folder / "ratings.dat").is_file():
        ratings = _events(folder / "ratings.dat", _dat_rows(folder / "ratings.dat", 4, rejects), rejects)
        movies = _items(folder / "movies.dat", _dat_rows(folder / "movies.dat", 3, rejects), rejects)
        users = _users(folder / "users.dat", rejects) if (folder / "users.dat").is_file() else None
        return Imported(ratings, movies, users, rejects.rows)
    if (folder / "ratings.csv").is_file():
        path = folder / "ratings.csv"
        ratings = _events(path, csv_columns(path, ("userId", "movieId", "rating", "timestamp"), rejects), rejects)
        path = folder / "movies.csv"
        movies = _items(path, csv_columns(path, ("movieId", "title", "genres"), rejects), rejects)
        return Imported(ratings, movies, None, rejects.rows)
    raise DatasetError(f"{folder}: neither ratings.dat nor ratings.csv is there, expected an unpacked MovieLens folder")


def _events(path: Path, rows: Iterator[tuple[int, list[str]]], rejects: Rejects) -> pa.Table:
    events = EventRows("timestamp", "rating")
    for line, (user, item, rating, time) in rows:
        try:
            values = (
                parse_id(user, "user_id"),
                parse_id(item, "item_id"),
                parse_time(time),
                parse_number(rating, "rating"),
            )
        except RowError as reason:
            rejects.add(path, line, reason, "::".join((user, item, rating, time)))
        else:
            events.add(*values)
            rejects.accept(path)
    return events.table(path)


def _items(path: Path, rows: Iterator[tuple[int, list[str]]], rejects: Rejects) -> pa.Table:
    items = ItemRows("title", "category")
    for line, (item, title, genres) in rows:
        genres = "" if genres == "(no genres listed)" else genres
        items.add_or_reject(path, line, item, {"title": title, "category": genres}, rejects)
    return items.table()


def _users(path: Path, rejects: Rejects) -> pa.Table:
    found: dict[str, dict[str, Any]] = {}
    for line, fields in _dat_rows(path, 5, rejects):
        try:
            user = parse_id(fields[0], "user_id")
            if user in found:
                raise RowError(f"user_id {user!r} is a repeat")
        except RowError as reason:
            rejects.add(path, line, reason, "::".join(fields))
        else:
            found[user] = dict(zip(("gender", "age", "occupation", "zip_code"), fields[1:], strict=True))
            rejects.accept(path)
    names = ("user_id", "gender", "age", "occupation", "zip_code")
    rows = [{"user_id": user, **values} for user, values in found.items()]
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in names]))


def _dat_rows(path: Path, width: int, rejects: Rejects) -> Iterator[tuple[int, list[str]]]:
    """Line and `::`-separated fields. The second field is a title and may itself hold `::` when there are three."""
    for line, raw in lines_of(path):
        if not raw.strip():
            continue
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            text = raw.decode("latin-1")  # the published movies.dat is latin-1, re-coded copies are UTF-8
        fields = text.split("::")
        if width == 3 and len(fields) > 3:
            fields = [fields[0], "::".join(fields[1:-1]), fields[-1]]
        if len(fields) != width:
            rejects.add(path, line, f"{len(fields)} fields between '::', expected {width}", raw)
            continue
        yield line, fields
