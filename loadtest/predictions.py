"""Offline predictions, the test cases of a dataset, and the comparison of served lists with expected ones."""

from __future__ import annotations

import json
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

PREDICTIONS = "predictions.parquet"
METRICS = ("recall", "hr", "ndcg")
# Offline figures are of float32 scores in other batches and order of summation; a case more or less shows far above.
_SAME_FIGURE = 1e-6
_COLUMNS = ("user_id", "target", "history", "items", "scores")


@dataclass(frozen=True, slots=True)
class Case:
    """One user of a test set: what they did (oldest first), what they did next, and what was predicted offline."""

    user_id: str
    target: str
    history: tuple[str, ...]
    items: tuple[str, ...]  # best first
    scores: tuple[float, ...]  # aligned with items
    targets: tuple[str, ...] = ()  # all that they did next, where that counts; else `target` alone

    @property
    def wanted(self) -> tuple[str, ...]:
        """What a good list holds."""
        return self.targets or (self.target,)


@dataclass(frozen=True, slots=True)
class Served:
    """One reply of the service: the list, best first, and the tier that made it. `status` is the sub-request's."""

    status: int
    items: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    tier: str = ""
    degraded: bool = False


def read_predictions(path: Path, *, k: int) -> list[Case]:
    """The cases of a `predictions.parquet`, or of the run folder it lies in, as the offline evaluation wrote it.

    Raises:
        InputError: a column is missing, or a row has fewer than `k` items or as many scores as items is not true.
    """
    if path.is_dir():
        path /= PREDICTIONS
    if not path.is_file():
        raise InputError(f"{path} is not a file; expected the predictions.parquet of an evaluated run")
    names = pq.read_schema(path).names
    if missing := [name for name in _COLUMNS if name not in names]:
        raise InputError(f"{path}: has the columns {', '.join(names)}; expected also {', '.join(missing)}")
    table = pq.read_table(path, columns=[name for name in (*_COLUMNS, "targets") if name in names])
    text = pa.list_(pa.string())
    targets = pc.cast(table["targets"], text).to_pylist() if "targets" in names else [()] * table.num_rows
    columns = (
        pc.cast(table["user_id"], pa.string()).to_pylist(),
        pc.cast(table["target"], pa.string()).to_pylist(),
        pc.cast(table["history"], text).to_pylist(),
        pc.cast(table["items"], text).to_pylist(),
        table["scores"].to_pylist(),
    )
    cases = []
    for row, (user_id, target, history, items, scores, all_) in enumerate(zip(*columns, targets, strict=True)):
        if len(items) != len(scores) or len(items) < k:
            raise InputError(
                f"{path}: row {row} (user {user_id!r}) has {len(items)} items and {len(scores)} scores; "
                f"expected as many of both, and at least {k}"
            )
        cases.append(Case(user_id, target, tuple(history), tuple(items), tuple(scores), tuple(all_)))
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


def read_evaluation(expected: Path, *, k: int) -> dict[str, Any] | None:
    """`split` and, where they are told at k, `users` and metrics of the evaluation that wrote the predictions.

    From the evaluation.json beside them; None where there is none.

    Raises:
        InputError: it is not what an evaluation writes.
    """
    path = (expected if expected.is_dir() else expected.parent) / "evaluation.json"
    if not path.is_file():
        return None
    try:
        report = json.loads(path.read_bytes())  # the offline half writes NaN for a group without targets
        overall = report["test"]["overall"]
        told = {f"{name}@{k}": overall[f"{name}@{k}"] for name in METRICS if f"{name}@{k}" in overall}
        return {"split": report["policy"]["split"], "users": overall["n"], "metrics": told}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not the report of an evaluation ({error!r})") from error


def check_against_evaluation(cases: Sequence[Case], evaluation: dict[str, Any], *, k: int) -> dict[str, Any]:
    """How far the predictions are the whole test set that the evaluation tells of: as many cases, the same figures.

    Works for every split: it needs nothing but the run folder. `complete` is None where no figure is told at k.
    """
    figures = dict(zip(METRICS, _means([list_metrics(case.items, case.wanted, k) for case in cases]), strict=True))
    gaps = {name: abs(figures[name.partition("@")[0]] - told) for name, told in evaluation["metrics"].items()}
    same = max(gaps.values()) <= _SAME_FIGURE and len(cases) == evaluation["users"] if gaps else None
    return {**evaluation, "found_users": len(cases), "largest_gap": max(gaps.values(), default=None), "complete": same}


def list_metrics(items: Sequence[str], wanted: Sequence[str], k: int) -> tuple[float, float, float]:
    """Recall@k, HR@k and NDCG@k of one list: the share of the wanted items among its first k; whether any is; and the
    sum of 1/log2(rank + 1) over them, divided by that of min(wanted, k) items in the first places.
    """
    ranks = [rank for rank, item in enumerate(items[:k], start=1) if item in wanted]
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(wanted), k) + 1))
    return len(ranks) / len(wanted), float(bool(ranks)), sum(1 / math.log2(rank + 1) for rank in ranks) / ideal


def metric_head(name: str, k: int) -> str:
    """A metric as the head of a column."""
    return f"{name if name == 'recall' else name.upper()}@{k}"


def _means(rows: Sequence[tuple[float, float, float]]) -> list[float]:
    means: list[float] = np.array(rows).mean(axis=0).tolist()
    return means


def compare(cases: Sequence[Case], replies: Sequence[Served], *, k: int, tie_tolerance: float) -> dict[str, Any]:
    """Served lists against expected ones, over the users that were answered with 200.

    A difference is a *tie* when every place at which the lists differ holds two items whose scores are no further
    apart than `tie_tolerance`: float arithmetic of another batch may then order them either way.
    """
    answered = [(case, reply) for case, reply in zip(cases, replies, strict=True) if reply.status == 200]
    served = [list_metrics(reply.items, case.wanted, k) for case, reply in answered]
    offline = [list_metrics(case.items, case.wanted, k) for case, _ in answered]
    # Of one wanted item, recall is the hit rate.
    names = METRICS if any(len(case.wanted) > 1 for case in cases) else METRICS[1:]
    gaps = [gap for case, reply in answered if (gap := list_gap(case, reply, k)) is not None]
    shared = [abs(score - expected) for case, reply in answered for score, expected in _common_scores(case, reply, k)]
    n = len(answered)

    def figures(lists: list[tuple[float, float, float]]) -> dict[str, float | None]:
        means = dict(zip(METRICS, _means(lists) if n else [None] * 3, strict=True))
        return {f"{name}@{k}": means[name] for name in names}

    return {
        "users": len(cases),
        "answered": n,
        "statuses": counts(np.array([str(reply.status) for reply in replies])),
        "tiers": counts(np.array([reply.tier for _, reply in answered])),
        "degraded": sum(reply.degraded for _, reply in answered),
        "k": k,
        "served": figures(served),
        "offline": figures(offline),
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
