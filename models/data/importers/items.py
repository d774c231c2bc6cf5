"""The item table an importer builds: one row per item_id, texts cleaned of markup."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from models.data.importers.rows import Rejects, RowError, parse_id

_TAG: Final = re.compile(r"<(script|style)\b.*?</\1>|</?[a-zA-Z!][^>]*>", re.IGNORECASE | re.DOTALL)
_SPACE: Final = re.compile(r"\s+")


class ItemRows:
    """Items with the named text columns; the first row of an id counts, later ones are rejected."""

    def __init__(self, *columns: str) -> None:
        self._columns: dict[str, list[str | None]] = {name: [] for name in columns}
        self._lines: dict[str, int] = {}

    def add_or_reject(
        self, path: Path, line: int, item_id: Any, texts: Mapping[str, Any], rejects: Rejects, raw: str | bytes = ""
    ) -> None:
        """Appends one item, or reports why not."""
        try:
            item = parse_id(item_id, "item_id")
            if item in self._lines:
                raise RowError(f"item_id {item!r} is a repeat, first in line {self._lines[item]}")
        except RowError as reason:
            rejects.add(path, line, reason, raw or " | ".join(str(value) for value in (item_id, *texts.values())))
            return
        self._lines[item] = line
        for name, column in self._columns.items():
            column.append(clean_text(texts.get(name)))
        rejects.accept(path)

    def table(self) -> pa.Table:
        """item_id and the text columns, all strings; null where an item has no text."""
        texts = {name: pa.array(column, pa.string()) for name, column in self._columns.items()}
        return pa.table({"item_id": pa.array(list(self._lines), pa.string()), **texts})


def clean_text(value: Any) -> str | None:
    """One line of plain text, or None if nothing is left: entities decoded, tags and line breaks gone, lists joined."""
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return " ".join(filter(None, map(clean_text, value))) or None
    text = html.unescape(_TAG.sub(" ", str(value)))
    return _SPACE.sub(" ", text).strip() or None
