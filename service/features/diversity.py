"""A list of a wanted diversity out of the best candidates: relevance and newness of topic in one sum, item by item."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Candidates for each place of the list, and most of them: a list can only be as varied as what it is chosen from.
CANDIDATES_PER_PLACE = 10
MAX_CANDIDATES = 500


def n_candidates(count: int) -> int:
    """How many of the best items a varied list of `count` is chosen from."""
    return max(count, min(count * CANDIDATES_PER_PLACE, MAX_CANDIDATES))


def topics_of(categories: Sequence[str | None], winners: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 (n,): equal numbers where items speak of the same: their category, or without one the query that won them.

    Args:
        categories: of each item; winners: the query that gives each item its score.
    """
    number_of: dict[str | int, int] = {}
    named = (category or int(winner) for category, winner in zip(categories, winners, strict=True))
    return np.fromiter((number_of.setdefault(name, len(number_of)) for name in named), np.int64, len(categories))


def diversify(
    scores: NDArray[np.float32], topics: NDArray[np.int64], count: int, diversity: float
) -> NDArray[np.int64]:
    """int64 (min(count, n),): places of the chosen candidates, in the order of the list.

    The controllable aggregation of ComiRec (arXiv:2005.09347, aggregation module), greedy as there: after
    the list S, the next item is the candidate i that maximises

        (1 - diversity) * relevance(i) + diversity * newness(i, S)

    relevance(i) = (score(i) - lowest) / (highest - lowest) over the candidates; newness(i, S) = the share of S with
    another topic than i, 1 for an empty S. ComiRec adds lambda times the *number* of such items to the raw score:
    shares keep both parts within 0..1, so that one value means the same for every model and every place of the list.
    Ties go to the better candidate: diversity 0 gives the first `count` as they are, diversity 1 takes topics in turn,
    the best of each.

    Args:
        scores: of the candidates, best first; topics: of `topics_of`; diversity: 0..1.
    """
    n = len(scores)
    count = min(count, n)
    if diversity == 0 or count == 0:
        return np.arange(count)
    spread = float(scores[0]) - float(scores[-1])
    relevance = (scores.astype(np.float64) - float(scores[-1])) / spread if spread > 0 else np.zeros(n)
    chosen = np.empty(count, dtype=np.int64)
    value = relevance.copy()
    in_list = np.zeros(int(topics.max()) + 1)
    for place in range(count):
        if place:
            value = (1 - diversity) * relevance + diversity * (1 - in_list[topics] / place)
            value[chosen[:place]] = -np.inf
        chosen[place] = int(value.argmax())  # the first of equals is the better candidate
        in_list[topics[chosen[place]]] += 1
    return chosen
