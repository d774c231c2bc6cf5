"""Cuts the logs of users into sessions: a dataset whose rows are sessions, as session models want it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.data.filters import filter_tables
from models.data.folder import Tables
from models.errors import DatasetError


def cut_sessions(tables: Tables, minutes: int, min_clicks: int = 2, item_core: int = 5) -> Tables:
    """The same interactions as sessions: what a user did within one wall-clock bin of `minutes` (LLM4SBR, sheet 2).

    A bin is the timestamp rounded down, not a pause between clicks. `user_id` and `session_id` both become
    USER@BIN, `position` counts within the session, and a carried `split` is that of the session's newest event: a
    session that reaches into the test period is a test session. Then sessions and items that are too small go, again
    and again until none is (the paper drops a whole session with a rare item, once). Users have no rows any more.

    Raises:
        DatasetError: an event has no timestamp in whole seconds, or nothing is left.
    """
    interactions = tables.interactions
    if "timestamp" not in interactions.column_names or interactions.column("timestamp").null_count:
        raise DatasetError(
            "interactions.parquet: sessions are cut by time, and 'timestamp' is missing or null somewhere"
        )
    if not pa.types.is_integer(interactions.column("timestamp").type):
        kind = interactions.column("timestamp").type
        raise DatasetError(f"interactions.parquet: column 'timestamp' is {kind}, expected whole seconds (int64)")
    users = interactions.column("user_id").cast(pa.string())
    bins = interactions.column("timestamp").to_numpy() // (60 * minutes)
    names = pc.binary_join_element_wise(users, pa.array(bins).cast(pa.string()), "@")
    sessions = names.combine_chunks().dictionary_encode().indices.to_numpy()
    # Stable: events of one second keep the order of the file.
    order = np.lexsort((interactions.column("timestamp").to_numpy(), sessions))
    lengths = np.bincount(sessions)
    starts = np.cumsum(lengths) - lengths
    found = interactions.take(order)
    named = {
        "user_id": names.take(order),
        "session_id": names.take(order),
        "position": pa.array(np.arange(len(order)) - np.repeat(starts, lengths)),
    }
    if "split" in found.column_names:
        newest = np.repeat(starts + lengths - 1, lengths)
        named["split"] = found.column("split").take(newest)
    kept = found.drop_columns([name for name in named if name in found.column_names])
    table = pa.table({**named, **{name: kept.column(name) for name in kept.column_names}})
    return filter_tables(Tables(table, tables.items, None, None), min_clicks, item_core)
