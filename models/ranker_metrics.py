"""How well a ranker's scores order what was taken before what was not: AUC, GAUC and Logloss."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]
NOTHING = float("nan")


class WeightedAUC:
    """AUC of fixed scores under changing weights: sorted once, so that a bootstrap draw costs one pass."""

    def __init__(self, scores: Scores, labels: NDArray[np.integer]) -> None:
        self._order = np.argsort(scores, kind="stable")
        ascending = scores[self._order]
        self._labels = labels[self._order].astype(np.float64)
        self._ties = np.flatnonzero(np.diff(ascending, prepend=-np.inf) != 0) if len(scores) else np.empty(0, np.int64)

    def __call__(self, weights: NDArray[np.float64] | None = None) -> float:
        """Chance that a positive scores above a negative, ties half; nan unless both are there."""
        if not len(self._order):
            return NOTHING
        heavy = np.ones(len(self._order)) if weights is None else weights[self._order]
        positive = np.add.reduceat(heavy * self._labels, self._ties)
        negative = np.add.reduceat(heavy * (1 - self._labels), self._ties)
        pairs = positive.sum() * negative.sum()
        if pairs == 0:
            return NOTHING
        below = np.cumsum(negative) - negative
        return float((positive * (below + negative / 2)).sum() / pairs)


def auc(scores: Scores, labels: NDArray[np.integer]) -> float:
    """Chance that a positive scores above a negative, ties half; nan unless both are there."""
    return WeightedAUC(scores, labels)()


def grouped_auc(
    scores: Scores, labels: NDArray[np.integer], groups: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """(group, AUC within it, entries) of each group that has both positives and negatives, groups ascending."""
    order = np.lexsort((scores, groups))
    group, score, label = groups[order], scores[order], labels[order].astype(np.float64)
    if not len(group):
        return np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64)
    new_group = np.diff(group, prepend=group[0] - 1) != 0
    ties = np.flatnonzero(new_group | (np.diff(score, prepend=-np.inf) != 0))
    positive, negative = np.add.reduceat(label, ties), np.add.reduceat(1 - label, ties)
    starts = np.flatnonzero(new_group[ties])
    of_tie = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(ties)))
    total = np.cumsum(negative) - negative
    below = total - total[starts][of_tie]
    wins = np.add.reduceat(positive * (below + negative / 2), starts)
    n_positive, n_negative = np.add.reduceat(positive, starts), np.add.reduceat(negative, starts)
    both = (n_positive > 0) & (n_negative > 0)
    sizes = (n_positive + n_negative).astype(np.int64)
    return group[ties[starts]][both], wins[both] / (n_positive * n_negative)[both], sizes[both]


def gauc(scores: Scores, labels: NDArray[np.integer], users: NDArray[np.int64]) -> float:
    """AUC within each user, users weighted by their entries; those with one class only are left out."""
    _, values, sizes = grouped_auc(scores, labels, users)
    return float((values * sizes).sum() / sizes.sum()) if len(values) else NOTHING


def entry_losses(logits: Scores, labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """-log of what the sigmoid of each logit gives its label."""
    x = logits.astype(np.float64)
    return np.logaddexp(0, np.where(labels > 0, -x, x))


def logloss(logits: Scores, labels: NDArray[np.integer]) -> float:
    """Mean of `entry_losses`; nan of nothing."""
    return float(entry_losses(logits, labels).mean()) if len(logits) else NOTHING
