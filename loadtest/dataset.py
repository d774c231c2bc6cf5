"""Histories out of a dataset folder's `interactions.parquet`, oldest first, ids as strings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loadtest.errors import InputError


@dataclass(slots=True)
class UserHistory:
    """One user's events, oldest first; `session_ids` is aligned, or empty where the set has no sessions."""

    item_ids: list[str] = field(default_factory=list)
    session_ids: list[str | None] = field(default_factory=list)

    def last_session_length(self) -> int | None:
        """Number of events at the end that share one session id; None where the last event has no session."""
        if not self.session_ids or self.session_ids[-1] is None:
            return None
        last = self.session_ids[-1]
        return next((n for n, name in enumerate(reversed(self.session_ids)) if name != last), len(self.session_ids))


def read_histories(folder: Path) -> dict[str, UserHistory]:
    """Events per user, ordered by `position` where the set has it, else by `timestamp`, ties in file order.

    That is the order the dataset format defines, read here independently of the training code, so that a replay
    checks it too.

    Raises:
        InputError: the folder has no readable interactions.parquet, or a column is missing or partly null.
    """
    path = folder / "interactions.parquet"
    if not path.is_file():
        raise InputError(f"{path} is not a file; expected a dataset folder with interactions.parquet")
    names = pq.read_schema(path).names
    missing = {"user_id", "item_id"} - set(names)
    if missing:
        raise InputError(f"{path}: has the columns {', '.join(names)}; expected also {', '.join(sorted(missing))}")
    optional = [name for name in ("position", "timestamp", "session_id") if name in names]
    table = _in_order(pq.read_table(path, columns=["user_id", "item_id", *optional]), path)
    users, items = (_strings(table, name) for name in ("user_id", "item_id"))
    sessions = _strings(table, "session_id") if "session_id" in names else []
    histories: dict[str, UserHistory] = {}
    for row, (user_id, item_id) in enumerate(zip(users, items, strict=True)):
        if user_id is None or item_id is None:
            raise InputError(f"{path}: an event of user {user_id!r}, item {item_id!r} lacks an id")
        history = histories.setdefault(user_id, UserHistory())
        history.item_ids.append(item_id)
        if sessions:
            history.session_ids.append(sessions[row])
    return histories


def _in_order(table: pa.Table, path: Path) -> pa.Table:
    for name in ("position", "timestamp"):
        if name not in table.column_names or table[name].null_count == table.num_rows:
            continue
        if table[name].null_count:
            raise InputError(f"{path}: {name} orders the events but is null in {table[name].null_count} rows")
        # The file row is the last key: events of one moment keep their order.
        table = table.append_column("row", pa.array(range(table.num_rows), pa.int64()))
        return table.sort_by([(name, "ascending"), ("row", "ascending")])
    return table


def _strings(table: pa.Table, name: str) -> list[str | None]:
    strings: list[str | None] = pc.cast(table[name], pa.string()).to_pylist()
    return strings
