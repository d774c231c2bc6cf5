"""Keeps the interactions of users and items that occur often enough, or those of some scenarios on one clock."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.data.folder import Tables
from models.errors import DatasetError


def single_pass(
    users: NDArray[np.int64], items: NDArray[np.int64], user_core: int, item_core: int
) -> NDArray[np.bool_]:
    """bool (rows,): rows whose user and whose item occur often enough among all rows, counted once.

    What is left may fall below the thresholds again: that is the filter of SASRec and LLM-ESR, not a k-core.

    Args:
        users, items: (rows,) numbers from 0; a pair that occurs twice counts twice.
        user_core, item_core: the least number of rows a user and an item must have.
    """
    enough: NDArray[np.bool_] = (np.bincount(users)[users] >= user_core) & (np.bincount(items)[items] >= item_core)
    return enough


def k_core(users: NDArray[np.int64], items: NDArray[np.int64], user_core: int, item_core: int) -> NDArray[np.bool_]:
    """bool (rows,): the largest set of rows in which every user and every item occurs often enough.

    `single_pass` repeated on what it leaves until it leaves everything; arguments as there.
    """
    kept = np.arange(len(users))
    while len(kept):
        enough = single_pass(users[kept], items[kept], user_core, item_core)
        if enough.all():
            break
        kept = kept[enough]
    mask = np.zeros(len(users), dtype=bool)
    mask[kept] = True
    return mask


def filter_tables(tables: Tables, user_core: int, item_core: int, *, iterate: bool = True) -> Tables:
    """The same tables with only what passes; users and items that lose their last interaction go too.

    `position` keeps its values: they still order the events, with gaps.

    Raises:
        DatasetError: nothing passes.
    """
    users = tables.interactions.column("user_id").combine_chunks()
    items = tables.interactions.column("item_id").combine_chunks()
    mask = (k_core if iterate else single_pass)(_numbered(users), _numbered(items), user_core, item_core)
    if not mask.any():
        raise DatasetError(
            f"no interaction of {len(mask):,} is left by a filter of {user_core} per user and {item_core} per item"
        )
    interactions = tables.interactions.filter(pa.array(mask))
    shown = tables.impressions
    if shown is not None:
        shown = _having(_having(shown, "user_id", interactions), "item_id", interactions)
    return Tables(
        interactions=interactions,
        items=None if tables.items is None else _having(tables.items, "item_id", interactions),
        users=None if tables.users is None else _having(tables.users, "user_id", interactions),
        impressions=shown,
    )


def on_one_clock(tables: Tables, scenarios: Sequence[str]) -> Tables:
    """The interactions of `scenarios`, in order of time, of users who are in all of them.

    A `position` that counts within a scenario orders nothing across scenarios: it decides among events of one user, one
    scenario and one time, and is dropped.

    Raises:
        DatasetError: a scenario is unknown, an event has no time, or no user is in all the scenarios.
    """
    events = tables.interactions
    known = set(events.column("scenario").to_pylist()) if "scenario" in events.column_names else set()
    if foreign := sorted(set(scenarios) - known):
        raise DatasetError(f"scenario {', '.join(foreign)} is unknown, expected some of {', '.join(sorted(known))}")
    events = events.filter(pc.is_in(events.column("scenario").cast(pa.string()), value_set=pa.array(scenarios)))
    unknown = events.column("timestamp").null_count if "timestamp" in events.column_names else events.num_rows
    if unknown:
        raise DatasetError(
            f"scenarios {', '.join(scenarios)}: {unknown:,} events have no time, so there is no one order"
        )
    pairs = (
        events.group_by(["user_id", "scenario"]).aggregate([]).group_by("user_id").aggregate([("scenario", "count")])
    )
    everywhere = pairs.filter(pc.equal(pairs.column("scenario_count"), len(set(scenarios)))).column("user_id")
    events = events.filter(pc.is_in(events.column("user_id"), value_set=everywhere.combine_chunks()))
    if not events.num_rows:
        raise DatasetError(f"no user has events in all of {', '.join(scenarios)}")
    keys = ["user_id", "timestamp", "scenario", *(["position"] if "position" in events.column_names else [])]
    events = events.sort_by([(key, "ascending") for key in keys])
    if "position" in events.column_names:
        events = events.drop_columns(["position"])
    shown = tables.impressions
    if shown is not None:
        shown = shown.filter(pc.is_in(shown.column("scenario").cast(pa.string()), value_set=pa.array(scenarios)))
        shown = _having(shown, "user_id", events)
    return Tables(
        interactions=events,
        items=None if tables.items is None else _having(tables.items, "item_id", events),
        users=None if tables.users is None else _having(tables.users, "user_id", events),
        impressions=shown,
    )


def _numbered(ids: pa.Array) -> NDArray[np.int64]:
    numbers: NDArray[np.int64] = ids.dictionary_encode().indices.to_numpy().astype(np.int64)
    return numbers


def _having(table: pa.Table, column: str, interactions: pa.Table) -> pa.Table:
    """Rows of `table` whose id occurs in `interactions`; the two may store ids differently (string, integer)."""
    kept = pc.unique(interactions.column(column).cast(pa.string()))
    return table.filter(pc.is_in(table.column(column).cast(pa.string()), value_set=kept))
