"""What every importer needs: lines of raw files, checked values, growing columns, and the list of rejected rows."""

from __future__ import annotations

import csv
import gzip
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from models.data.dataset import HTTP_ID
from models.data.track import track
from models.errors import DatasetError

HOPELESS: Final = 1000  # a file whose first rows are all rejected is the wrong file or the wrong importer
MAX_EXCERPT: Final = 200  # characters of a rejected row that are kept
LATEST: Final = 7_258_118_400  # 2200-01-01; a later time is one in another unit


class RowError(Exception):
    """Why one row cannot be read; becomes an entry of the rejected rows, never leaves the importers."""


class Imported(NamedTuple):
    """What an importer read, and the rows it could not."""

    interactions: pa.Table
    items: pa.Table | None
    users: pa.Table | None
    rejected: list[dict[str, Any]]  # file, line (from 1), reason, text
    impressions: pa.Table | None = None  # all that was shown, where the raw files tell
    notes: tuple[str, ...] = ()  # what else there is to say of the import


class TimeUnit(StrEnum):
    """How a raw file writes its times."""

    s = "s"
    ms = "ms"
    us = "us"
    iso = "iso"


@dataclass
class Rejects:
    """Rows that could not be read, in the order of the files."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    _readable: set[Path] = field(default_factory=set)
    _n_rejected: Counter[Path] = field(default_factory=Counter)

    def accept(self, path: Path) -> None:
        """Notes that a row of `path` was read, so that it is not the wrong file."""
        self._readable.add(path)

    def add(self, path: Path, line: int, reason: object, text: str | bytes) -> None:
        """Reports a row.

        Raises:
            DatasetError: the first 1,000 rows of the file are all rejected.
        """
        excerpt = text[: 4 * MAX_EXCERPT].decode("utf-8", "replace") if isinstance(text, bytes) else text
        excerpt = excerpt.encode("utf-8", "replace").decode().strip()[:MAX_EXCERPT]
        self.rows.append({"file": path.name, "line": line, "reason": str(reason), "text": excerpt})
        self._n_rejected[path] += 1
        if path not in self._readable and self._n_rejected[path] >= HOPELESS:
            raise DatasetError(f"{path}: none of the first {HOPELESS:,} rows can be read; line {line}: {reason}")


class Ids:
    """A growing column of strings that repeat: 8 bytes a row, each string kept once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._rows = array("q")

    def append(self, value: str) -> None:
        self._rows.append(self._numbers.setdefault(value, len(self._numbers)))

    def column(self) -> pa.Array:
        numbers = pa.array(np.asarray(self._rows))
        return pa.DictionaryArray.from_arrays(numbers, pa.array(self._numbers, pa.string())).cast(pa.string())


class EventRows:
    """Interactions as growing columns: `user_id`, `item_id` and the optional ones named at the start."""

    _NUMBERS: Final = {"timestamp": "q", "position": "q", "rating": "d", "label": "b"}

    def __init__(self, *optional: str) -> None:
        self._columns: dict[str, Any] = {"user_id": Ids(), "item_id": Ids()}
        for name in optional:
            self._columns[name] = array(self._NUMBERS[name]) if name in self._NUMBERS else Ids()
        self._appends = [column.append for column in self._columns.values()]

    def add(self, *values: Any) -> None:
        """Appends one row: user_id, item_id, then the optional columns in their order."""
        for append, value in zip(self._appends, values, strict=True):
            append(value)

    def table(self, *paths: Path) -> pa.Table:
        """The rows as a table; DatasetError naming `paths` if there are none."""
        arrays = {
            name: column.column() if isinstance(column, Ids) else pa.array(np.asarray(column))
            for name, column in self._columns.items()
        }
        if not len(arrays["user_id"]):
            raise DatasetError(f"{', '.join(map(str, paths))}: no interaction could be read")
        return pa.table(arrays)


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of every line, without its end; a name ending in `.gz` is unpacked on the way.

    Raises:
        DatasetError: the file cannot be opened, or its gzip stream is damaged.
    """
    try:
        with path.open("rb") as raw:
            stream = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
            numbered = track(enumerate(stream, 1), path.name, path.stat().st_size, done=raw.tell, every=4096)
            for number, line in numbered:
                yield number, line.rstrip(b"\r\n")
    except (OSError, EOFError) as error:  # gzip.BadGzipFile is an OSError
        raise DatasetError(f"{path}: cannot be read: {error}") from error


def csv_rows(path: Path, delimiter: str, rejects: Rejects) -> Iterator[tuple[int, list[str]]]:
    """Line (from 1) and fields of every row, the header first; rows of another width than the header are rejected.

    Raises:
        DatasetError: the file cannot be opened, or has no header.
    """
    # Bytes that are not UTF-8 come through as surrogates, so that only the row that holds them is rejected.
    texts = (line.decode("utf-8", "surrogateescape") + "\n" for _, line in lines_of(path))
    reader = csv.reader(texts, delimiter=delimiter, strict=True)
    width: int | None = None
    while True:
        start = reader.line_num + 1
        fields: list[str] = []
        try:
            fields = next(reader)
            if not fields:
                continue
            if width is None:
                fields[0] = fields[0].removeprefix("\ufeff")
                width = len(fields)
            if len(fields) != width:
                raise RowError(f"{len(fields)} fields, expected {width} as in the header")
            if any(not value.isascii() and _has_surrogates(value) for value in fields):
                raise RowError("is not UTF-8")
        except StopIteration:
            break
        except (RowError, csv.Error) as error:
            lines = "" if reader.line_num <= start else f" (lines {start} to {reader.line_num})"
            rejects.add(path, start, f"{error}{lines}", delimiter.join(fields))
            continue
        yield start, fields
    if width is None:
        raise DatasetError(f"{path}: is empty, expected a header line with column names")


def csv_columns(path: Path, names: Sequence[str], rejects: Rejects) -> Iterator[tuple[int, list[str]]]:
    """Line and the fields of the named columns of every row below the header.

    Raises:
        DatasetError: as `csv_rows`, or the header lacks a name.
    """
    rows = csv_rows(path, ",", rejects)
    _, header = next(rows)
    columns = [column_of(header, name, path) for name in names]
    for line, fields in rows:
        yield line, [fields[column] for column in columns]


def column_of(header: list[str], name: str, path: Path) -> int:
    """Where the header has `name`; DatasetError with the names it has if it does not."""
    if name not in header:
        raise DatasetError(f"{path}: no column '{name}', found {', '.join(header)}")
    return header.index(name)


def parse_id(value: Any, name: str) -> str:
    """An id as a string the service takes; integers become their decimal form."""
    _require(value, name)
    if isinstance(value, float | bool) or not HTTP_ID.fullmatch(text := str(value).strip()):
        raise RowError(f"{name} {_shown(value)} is not an id: 1 to 128 characters of A-Z a-z 0-9 _ . : @ -")
    return text


def parse_time(value: Any, unit: TimeUnit = TimeUnit.s, zone: tzinfo = UTC) -> int:
    """Whole seconds since 1970 UTC; fractions are cut, an ISO time that names no zone is in `zone`."""
    _require(value, "timestamp")
    try:
        if unit is TimeUnit.iso:
            moment = datetime.fromisoformat(str(value).strip())
            seconds = int((moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp())
        else:
            number = int(value) if isinstance(value, int) or str(value).strip().isdecimal() else float(value)
            seconds = int(number // _PER_SECOND[unit])
    except (TypeError, ValueError, OverflowError):
        raise RowError(f"timestamp {_shown(value)} is not a time in {unit.value}") from None
    if not 0 <= seconds < LATEST:
        raise RowError(f"timestamp {_shown(value)} in {unit.value} is outside 1970 to 2200")
    return seconds


def parse_number(value: Any, name: str) -> float:
    """A finite number."""
    _require(value, name)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise RowError(f"{name} {_shown(value)} is not a number") from None
    if not math.isfinite(number):
        raise RowError(f"{name} {_shown(value)} is not finite")
    return number


def parse_integer(value: Any, name: str) -> int:
    """A whole number below 2**53."""
    number = parse_number(value, name)
    if number != int(number) or abs(number) >= 2**53:
        raise RowError(f"{name} {_shown(value)} is not a whole number")
    return int(number)


def parse_label(value: Any, name: str) -> int:
    """0 or 1."""
    label = parse_integer(value, name)
    if label not in (0, 1):
        raise RowError(f"{name} {label} is neither 0 nor 1")
    return label


_PER_SECOND: Final = {TimeUnit.s: 1, TimeUnit.ms: 1_000, TimeUnit.us: 1_000_000}


def _require(value: Any, name: str) -> None:
    if value is None or value == "":
        raise RowError(f"{name} is missing")


def _has_surrogates(text: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in text)


def _shown(value: Any) -> str:
    return repr(value)[:60]
