"""Ranks, and what is made of them: HR, NDCG, MRR and recall at k, for everyone and by group. k is `count` in HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

CUTOFFS: Final = (5, 10, 20)
ONE_TARGET: Final = ("hr", "ndcg", "mrr")
# Several targets a case, as the family of ComiRec reports them.
SEVERAL_CUTOFFS: Final = (10, 20, 50)
SEVERAL_TARGETS: Final = ("recall", "hr", "ndcg")

Rows = NDArray[np.int64] | None  # the case of each target, ascending; None: one target a case


def metrics_of(
    ranks: NDArray[np.int64], cutoffs: tuple[int, ...] | None = None, *, rows: Rows = None
) -> dict[str, float]:
    """Means over cases: hr, ndcg and mrr at 5, 10, 20; of several targets a case recall, hr and ndcg at 10, 20, 50.

    Args:
        ranks: 0-based rank of each target; none at all gives nan.
        cutoffs: other values of k.
    """
    names, usual = (ONE_TARGET, CUTOFFS) if rows is None else (SEVERAL_TARGETS, SEVERAL_CUTOFFS)
    found: dict[str, float] = {}
    for k in usual if cutoffs is None else cutoffs:
        for name in names:
            values = case_values(f"{name}@{k}", ranks, rows)
            found[f"{name}@{k}"] = float(values.sum() / len(values)) if len(values) else float("nan")
    return found


def case_values(metric: str, ranks: NDArray[np.int64], rows: Rows = None) -> NDArray[np.float64]:
    """float64 (cases with a target,): `metric`, written name@k, of each case, cases in order.

    recall: share of the case's targets within the first k; hr: whether any is; mrr: 1 / place of the first of them;
    ndcg: gains by place over the gains of min(targets, k) targets in the first places.
    """
    name, _, cutoff = metric.partition("@")
    k = int(cutoff)
    hit = ranks < k
    if rows is None:
        rows = np.arange(len(ranks))
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    if not len(starts):
        return np.empty(0)
    n_targets = np.diff(starts, append=len(rows))
    if name == "recall":
        return np.asarray(np.add.reduceat(hit, starts, dtype=np.float64) / n_targets)
    if name == "hr":
        return np.logical_or.reduceat(hit, starts).astype(np.float64)
    if name == "mrr":
        return np.asarray(np.maximum.reduceat(hit / (ranks + 1.0), starts))
    if name == "ndcg":
        ideal = np.cumsum(1 / np.log2(np.arange(k) + 2.0))
        return np.asarray(np.add.reduceat(hit / np.log2(ranks + 2.0), starts) / ideal[np.minimum(n_targets, k) - 1])
    raise ValueError(f"metric {metric!r} is unknown, expected recall, hr, mrr or ndcg, @ and a number")


def tail_items(popularity: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool (n_items + 1,): the 80 % of items with the fewest training interactions, ties to the lower item_id.

    Args:
        popularity: training interactions by item index; entry 0 is padding and is never tail.
    """
    n_items = len(popularity) - 1
    order = np.argsort(popularity[1:], kind="stable")  # rows are in ascending item_id, so ties keep that order
    tail = np.zeros(n_items + 1, dtype=bool)
    tail[1 + order[: int(n_items * 0.8)]] = True
    return tail


def tail_user_threshold(train_lengths: NDArray[np.int64]) -> float:
    """The 80th percentile of training lengths; a user below it is a tail user."""
    return float(np.percentile(train_lengths, 80)) if len(train_lengths) else 0.0


def by_group(
    ranks: NDArray[np.int64], groups: Mapping[str, NDArray[np.bool_]], rows: Rows = None
) -> dict[str, dict[str, float]]:
    """`metrics_of` for everyone (`overall`) and for each named group of targets, each with its number of cases `n`."""
    everyone = {"overall": np.ones(len(ranks), dtype=bool), **groups}
    found: dict[str, dict[str, float]] = {}
    for name, member in everyone.items():
        inside = None if rows is None else rows[member]
        n = int(member.sum()) if inside is None else len(np.unique(inside))
        found[name] = {"n": n, **metrics_of(ranks[member], rows=inside)}
    return found


def paired_bootstrap(
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    *,
    seed: int,
    n_draws: int = 2000,
    owners: NDArray[np.int64] | None = None,
) -> tuple[float, float, float]:
    """Mean of (ours - theirs) over the same cases, and its 95 % interval by resampling cases, or whoever owns them.

    Args:
        owners: of each case, any number per owner; None: each case has an owner of its own. Cases of one session are
            drawn or left together, since they are not independent.
    """
    difference = ours - theirs
    rng = np.random.default_rng(seed)
    if owners is None:
        n = len(difference)
        means = np.array([difference[rng.integers(0, n, n)].mean() for _ in range(n_draws)])
    else:
        at = np.unique(owners, return_inverse=True)[1]
        sums, sizes = np.bincount(at, difference), np.bincount(at)
        n = len(sizes)
        owned = (rng.integers(0, n, n) for _ in range(n_draws))
        means = np.array([sums[drawn].sum() / sizes[drawn].sum() for drawn in owned])
    low, high = np.percentile(means, [2.5, 97.5])
    return float(difference.mean()), float(low), float(high)


def relative_bootstrap(
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    *,
    seed: int,
    n_draws: int = 1000,
    owners: NDArray[np.int64] | None = None,
) -> tuple[float, float, float]:
    """mean(ours) / mean(theirs) - 1 over the same users, and its 95 % interval by resampling users, and seeds.

    Not a number where theirs is 0 everywhere (or was in more than a draw in forty).

    Args:
        ours, theirs: (users,), or (seeds, users) with the same seeds in the same order: seeds are then drawn anew too.
        owners: of each entry, where several belong together, as in `paired_bootstrap`.
    """
    ours, theirs = np.atleast_2d(ours), np.atleast_2d(theirs)
    if owners is not None:  # sums by owner: their ratio is that of the means
        at = np.unique(owners, return_inverse=True)[1]
        ours, theirs = (
            np.stack([np.bincount(at, of_seed).astype(np.float64) for of_seed in each]) for each in (ours, theirs)
        )
    n_seeds, n = ours.shape
    rng = np.random.default_rng(seed)
    ratios = np.full(n_draws, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        for draw in range(n_draws if n else 0):
            times = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)  # each user is drawn so often
            seeds = rng.integers(0, n_seeds, n_seeds) if n_seeds > 1 else np.zeros(1, dtype=np.int64)
            ratios[draw] = (ours @ times)[seeds].sum() / (theirs @ times)[seeds].sum()
        if not n or theirs.mean() == 0:
            return float("nan"), float("nan"), float("nan")
        low, high = np.percentile(ratios, [2.5, 97.5])
    return float(ours.mean() / theirs.mean() - 1), float(low - 1), float(high - 1)
