"""What a dataset is like in numbers: sizes, lengths, the long tail, texts, and what may surprise."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data.dataset import HTTP_ID, NO_TIMESTAMP, Dataset
from models.data.splits import leave_one_out
from models.metrics import tail_items, tail_user_threshold


def describe(dataset: Dataset) -> dict[str, Any]:
    """Counts, density, lengths, time span, text coverage, scenarios, sessions, tail and oddities, ready for JSON.

    Density counts only items that occur; the tail is the design's, from the training part of leave-one-out.
    """
    counts = np.bincount(dataset.sequences.items, minlength=dataset.n_items + 1)[1:]
    n_occurring = int(np.count_nonzero(counts))
    lengths = dataset.sequences.lengths
    return {
        "name": dataset.name,
        "digest": dataset.digest,
        "n_users": dataset.n_users,
        "n_items": dataset.n_items,
        "n_items_without_interactions": dataset.n_items - n_occurring,
        "n_interactions": dataset.n_interactions,
        "density": dataset.n_interactions / max(1, dataset.n_users * n_occurring),
        "events_per_user": _spread(lengths),
        "events_per_occurring_item": _spread(counts[counts > 0]),
        "n_users_below_3_events": int(np.count_nonzero(lengths < 3)),
        "n_repeats": dataset.n_interactions - _n_pairs(dataset),
        "times": _times(dataset),
        "n_items_with_text": _texts(dataset),
        "scenarios": _scenarios(dataset),
        "sessions": _sessions(dataset),
        "tail": tail(dataset),
        "oddities": oddities(dataset),
    }


def tail(dataset: Dataset) -> dict[str, Any]:
    """Thresholds and group sizes of tail items and tail users under leave-one-out."""
    split = leave_one_out(dataset)
    popularity = np.bincount(split.train.items, minlength=dataset.n_items + 1)
    is_tail = tail_items(popularity)
    train_lengths = split.train.lengths
    threshold = tail_user_threshold(train_lengths)
    n_tail_users = int(np.count_nonzero(train_lengths[split.test.user_index] < threshold))
    return {
        "n_tail_items": int(is_tail.sum()),
        "n_head_items": dataset.n_items - int(is_tail.sum()),
        "most_interactions_of_a_tail_item": int(popularity[is_tail].max(initial=0)),
        "tail_share_of_training": float(popularity[is_tail].sum() / max(1, popularity.sum())),
        "n_items_never_trained": int(np.count_nonzero(popularity[1:] == 0)),
        "n_test_targets": len(split.test),
        "n_test_targets_tail": int(is_tail[split.test.targets].sum()),
        "n_test_targets_never_trained": int(np.count_nonzero(popularity[split.test.targets] == 0)),
        "tail_user_below": threshold,
        "n_test_users_tail": n_tail_users,
        "n_test_users_head": len(split.test) - n_tail_users,
        "n_test_users_with_distinct_last_times": _count(split.test.distinct_times),
    }


def oddities(dataset: Dataset) -> list[str]:
    """One sentence per thing that is allowed and may still surprise; empty if there is none."""
    found = []
    times = dataset.timestamps
    if times is None:
        found.append("no event has a timestamp: global_time cannot be used")
    elif n_unknown := int(np.count_nonzero(times == NO_TIMESTAMP)):
        found.append(f"{n_unknown:,} events have no timestamp, the others do: global_time cannot be used")
    if n_falling := _n_falling(dataset):
        found.append(
            f"{n_falling:,} events are older than the event before them: the positions contradict the timestamps"
        )
    for what, ids in (("item", dataset.item_ids), ("user", dataset.user_ids)):
        if unfit := [value for value in ids if not HTTP_ID.fullmatch(value)]:
            found.append(f"{len(unfit):,} {what} ids cannot cross HTTP, the first is {unfit[0]!r}")
    if n_short := int(np.count_nonzero(dataset.sequences.lengths < 3)):
        found.append(f"{n_short:,} users have fewer than 3 events: leave_one_out only trains on them")
    if n_silent := sum(not title for title in dataset.item_titles()):
        found.append(f"{n_silent:,} items have neither title nor text id")
    return found


def _spread(values: NDArray[np.int64]) -> dict[str, float]:
    if not len(values):
        return {"mean": 0.0, "median": 0.0, "min": 0, "max": 0}
    return {
        "mean": round(float(values.mean()), 3),
        "median": float(np.median(values)),
        "min": int(values.min()),
        "max": int(values.max()),
    }


def _n_pairs(dataset: Dataset) -> int:
    """Distinct (user, item) pairs."""
    return len(np.unique(dataset.sequences.rows * (dataset.n_items + 1) + dataset.sequences.items))


def _times(dataset: Dataset) -> dict[str, Any] | None:
    """First and last second as ISO 8601, and how many events have none; None if no event has one."""
    if dataset.timestamps is None:
        return None
    known = dataset.timestamps[dataset.timestamps != NO_TIMESTAMP]
    first, last = (datetime.fromtimestamp(int(value), UTC).isoformat() for value in (known.min(), known.max()))
    return {"first": first, "last": last, "n_unknown": dataset.n_interactions - len(known)}


def _texts(dataset: Dataset) -> dict[str, int]:
    """Per column of text, the items that have one."""
    found = {}
    for name in dataset.items.column_names:
        column = dataset.items.column(name)
        if name != "item_id" and "string" in str(column.type):
            found[name] = sum(bool(value and str(value).strip()) for value in column.to_pylist())
    return found


def _scenarios(dataset: Dataset) -> dict[str, int]:
    if dataset.scenarios is None:
        return {}
    counts = np.bincount(dataset.scenarios, minlength=len(dataset.scenario_names))
    return dict(zip(dataset.scenario_names, counts.tolist(), strict=True))


def _sessions(dataset: Dataset) -> dict[str, float] | None:
    if dataset.session_ids is None:
        return None
    ids = dataset.session_ids[dataset.session_ids != np.array(None)]
    n_sessions = len(set(zip(dataset.sequences.rows.tolist(), dataset.session_ids.tolist(), strict=True)))
    return {"n_sessions": n_sessions, "events_per_session": round(len(ids) / n_sessions, 3)}


def _n_falling(dataset: Dataset) -> int:
    times = dataset.timestamps
    if times is None:
        return 0
    known = (times[:-1] != NO_TIMESTAMP) & (times[1:] != NO_TIMESTAMP)
    same_user = dataset.sequences.rows[:-1] == dataset.sequences.rows[1:]
    return int(np.count_nonzero(known & same_user & (times[1:] < times[:-1])))


def _count(mask: NDArray[np.bool_] | None) -> int | None:
    return None if mask is None else int(mask.sum())
