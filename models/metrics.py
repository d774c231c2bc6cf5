"""Ranks, and what is made of them: HR, NDCG and MRR at k, for everyone and by group. k is `count` in HTTP."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

CUTOFFS = (5, 10, 20)


def metrics_of(ranks: NDArray[np.int64], cutoffs: tuple[int, ...] = CUTOFFS) -> dict[str, float]:
    """Mean hr@k, ndcg@k and mrr@k of 0-based ranks (one target per case); empty input gives nan."""
    found: dict[str, float] = {}
    with np.errstate(invalid="ignore"):
        for k in cutoffs:
            hit = ranks < k
            n = len(ranks)
            found[f"hr@{k}"] = float(hit.sum() / n) if n else float("nan")
            found[f"ndcg@{k}"] = float((hit / np.log2(ranks + 2.0)).sum() / n) if n else float("nan")
            found[f"mrr@{k}"] = float((hit / (ranks + 1.0)).sum() / n) if n else float("nan")
    return found


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


def by_group(ranks: NDArray[np.int64], groups: Mapping[str, NDArray[np.bool_]]) -> dict[str, dict[str, float]]:
    """`metrics_of` for everyone (`overall`) and for each named group, each with its size `n`."""
    everyone = {"overall": np.ones(len(ranks), dtype=bool), **groups}
    return {name: {"n": int(member.sum()), **metrics_of(ranks[member])} for name, member in everyone.items()}


def paired_bootstrap(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], *, seed: int, n_draws: int = 2000
) -> tuple[float, float, float]:
    """Mean of (ours - theirs) over the same users, and its 95 % interval by resampling users."""
    difference = ours - theirs
    rng = np.random.default_rng(seed)
    n = len(difference)
    means = np.array([difference[rng.integers(0, n, n)].mean() for _ in range(n_draws)])
    low, high = np.percentile(means, [2.5, 97.5])
    return float(difference.mean()), float(low), float(high)


def relative_bootstrap(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], *, seed: int, n_draws: int = 1000
) -> tuple[float, float, float]:
    """mean(ours) / mean(theirs) - 1 over the same users, and its 95 % interval by resampling users.

    Not a number where theirs is 0 everywhere (or was in more than a draw in forty).
    """
    rng = np.random.default_rng(seed)
    n = len(ours)
    ratios = np.full(n_draws, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        for draw in range(n_draws if n else 0):
            rows = rng.integers(0, n, n)
            ratios[draw] = ours[rows].mean() / theirs[rows].mean()
        if not n or theirs.mean() == 0:
            return float("nan"), float("nan"), float("nan")
        low, high = np.percentile(ratios, [2.5, 97.5])
    return float(ours.mean() / theirs.mean() - 1), float(low - 1), float(high - 1)
