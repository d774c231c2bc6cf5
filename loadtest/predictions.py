"""Offline predictions, the test cases of a dataset, and the comparison of served lists with expected ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loadtest.dataset import read_histories
from loadtest.errors import InputError
from loadtest.recorder import counts, percentiles
from loadtest.traffic import MAX_HISTORY

_COLUMNS = ("user_id", "target", "history", "items", "scores")


@dataclass(frozen=True, slots=True)
class Case:
    """One user of a test set: what they did (oldest first), what they did next, and what was predicted offline."""

    user_id: str
    target: str
    history: tuple[str, ...]
    items: tuple[str, ...]  # best first
    scores: tuple[float, ...]  # aligned with items


@dataclass(frozen=True, slots=True)
class Served:
    """One reply of the service: the list, best first, and the tier that made it. `status` is the sub-request's."""

    status: int
    items: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    tier: str = ""
    degraded: bool = False


def read_predictions(path: Path, *, k: int) -> list[Case]:
    """The cases of a `predictions.parquet`, as the offline evaluation wrote it.

    Raises:
        InputError: a column is missing, or a row has fewer than `k` items or as many scores as items is not true.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file; expected the predictions.parquet of an evaluated run")
    names = pq.read_schema(path).names
    if missing := [name for name in _COLUMNS if name not in names]:
        raise InputError(f"{path}: has the columns {', '.join(names)}; expected also {', '.join(missing)}")
    table = pq.read_table(path, columns=list(_COLUMNS))
    text = pa.list_(pa.string())
    columns = (
        pc.cast(table["user_id"], pa.string()).to_pylist(),
        pc.cast(table["target"], pa.string()).to_pylist(),
        pc.cast(table["history"], text).to_pylist(),
        pc.cast(table["items"], text).to_pylist(),
        table["scores"].to_pylist(),
    )
    cases = []
    for row, (user_id, target, history, items, scores) in enumerate(zip(*columns, strict=True)):
        if len(items) != len(scores) or len(items) < k:
            raise InputError(
                f"{path}: row {row} (user {user_id!r}) has {len(items)} items and {len(scores)} scores; "
                f"expected as many of both, and at least {k}"
            )
        cases.append(Case(user_id, target, tuple(history), tuple(items), tuple(scores)))
    if not cases:
        raise InputError(f"{path}: holds no user")
    return cases


def check_against_dataset(cases: Sequence[Case], folder: Path) -> dict[str, Any]:
    """How far the cases are the whole leave-one-out test set of a dataset, worked out from the dataset alone.

    Every user with at least three events is a case: the last event is the target, all before it (newest 500) the
    history. `complete` is true when users, targets and histories all agree.
    """
    expected = {
        user_id: (history.item_ids[-1], tuple(history.item_ids[:-1][-MAX_HISTORY:]))
        for user_id, history in read_histories(folder).items()
        if len(history.item_ids) >= 3
    }
    found = {case.user_id: case for case in cases}
    both = [(found[user_id], case) for user_id, case in expected.items() if user_id in found]
    differences = {
        "repeated_users": len(cases) - len(found),
        "missing_users": len(expected) - len(both),
        "foreign_users": len(found) - len(both),
        "other_targets": sum(case.target != target for case, (target, _) in both),
        "other_histories": sum(case.history != history for case, (_, history) in both),
    }
    return {"users": len(expected), **differences, "complete": not any(differences.values())}


def hit_and_gain(items: Sequence[str], target: str, k: int) -> tuple[float, float]:
    """HR@k and NDCG@k of one list with one relevant item: 1 and 1/log2(rank + 1) if it is in the first k, else 0."""
    try:
        rank = list(items[:k]).index(target) + 1
    except ValueError:
        return 0.0, 0.0
    return 1.0, 1.0 / math.log2(rank + 1)


def compare(cases: Sequence[Case], replies: Sequence[Served], *, k: int, tie_tolerance: float) -> dict[str, Any]:
    """Served lists against expected ones, over the users that were answered with 200.

    A difference is a *tie* when every place at which the lists differ holds two items whose scores are no further
    apart than `tie_tolerance`: float arithmetic of another batch may then order them either way.
    """
    answered = [(case, reply) for case, reply in zip(cases, replies, strict=True) if reply.status == 200]
    metrics = np.array(
        [
            (*hit_and_gain(reply.items, case.target, k), *hit_and_gain(case.items, case.target, k))
            for case, reply in answered
        ]
    ).reshape(-1, 4)
    gaps = [gap for case, reply in answered if (gap := list_gap(case, reply, k)) is not None]
    shared = [abs(score - expected) for case, reply in answered for score, expected in _common_scores(case, reply, k)]
    n = len(answered)
    served_hr, served_ndcg, offline_hr, offline_ndcg = metrics.mean(axis=0).tolist() if n else [None] * 4
    return {
        "users": len(cases),
        "answered": n,
        "statuses": counts(np.array([str(reply.status) for reply in replies])),
        "tiers": counts(np.array([reply.tier for _, reply in answered])),
        "degraded": sum(reply.degraded for _, reply in answered),
        "k": k,
        "served": {f"hr@{k}": served_hr, f"ndcg@{k}": served_ndcg},
        "offline": {f"hr@{k}": offline_hr, f"ndcg@{k}": offline_ndcg},
        "same_list_share": (n - len(gaps)) / n if n else 0.0,
        "same_set_share": sum(set(c.items[:k]) == set(r.items[:k]) for c, r in answered) / n if n else 0.0,
        "differing_users": len(gaps),
        "differing_beyond_ties": sum(gap > tie_tolerance for gap in gaps),
        "tie_tolerance": tie_tolerance,
        "score_gap": percentiles(np.array([gap for gap in gaps if math.isfinite(gap)])),
        "score_difference": percentiles(np.array([gap for gap in shared if math.isfinite(gap)])),
    }


def list_gap(case: Case, reply: Served, k: int) -> float | None:
    """The largest score gap over the places where the two lists differ; None when they are the same.

    The gap at a place is between the offline score of the expected item and that of the served one; where the served
    item is not among the expected ones, its served score stands in. A list of another length has an infinite gap.
    """
    expected, served = case.items[:k], reply.items[:k]
    if expected == served:
        return None
    if len(expected) != len(served):
        return math.inf
    offline = dict(zip(case.items, case.scores, strict=True))
    places = zip(expected, case.scores, served, reply.scores, strict=False)
    return max(abs(score - offline.get(other, online)) for item, score, other, online in places if item != other)


def _common_scores(case: Case, reply: Served, k: int) -> list[tuple[float, float]]:
    offline = dict(zip(case.items, case.scores, strict=True))
    pairs = zip(reply.items[:k], reply.scores[:k], strict=True)
    return [(score, offline[item]) for item, score in pairs if item in offline]
