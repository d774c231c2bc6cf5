"""What speaks for an item: the query that won it, the phrase nearest to that query, the past item behind it.

Arithmetic alone, so that a measurement of explanations and the service agree. Nothing here knows a user's text: phrases
were placed among the items by training (decision 11).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def winning_queries(queries: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.int64]:
    """int64 (n,): the query that gives each item its score, argmax of <query, row>; ties to the first.

    Args:
        queries: (n_queries, dim) of one history; rows: (n, dim) of the item table.
    """
    return np.asarray((rows @ queries.T).argmax(axis=1), dtype=np.int64)


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same directions at length 1; a row without direction stays zero, its cosine with anything is 0."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0), dtype=np.float32)


def nearest_phrases(
    queries: NDArray[np.float32], phrases: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each query (n, dim) the row of the phrase nearest by cosine, ties to the first, and that cosine.

    Args:
        phrases: `unit_rows` of their vectors (n_phrases, dim), at least one.
    """
    cosines = unit_rows(queries) @ phrases.T
    nearest = cosines.argmax(axis=1)
    return np.asarray(nearest, dtype=np.int64), np.asarray(cosines[np.arange(len(nearest)), nearest])


def parts_of_score(
    attention: NDArray[np.float32], rows: NDArray[np.float32], item: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(length,): what each place of a history gives one item's score through one query; only what speaks for it.

    attention_t * <row_t, item>, at least 0. Where a query is the sum of the attended rows (ComiRec-SA and REMI,
    arXiv:2005.09347) these are the very terms of its score <query, item>; where items pass a map first (capsules) they
    are what is likest to them. Where nothing speaks for the item, the attention itself.

    Args:
        attention: (length,) of the query; rows: (length, dim) of the history's items; item: (dim,).
    """
    parts = np.maximum(attention * (rows @ item), 0)
    return np.asarray(parts if parts.any() else attention, dtype=np.float32)


def heaviest_item(history: Sequence[int], parts: NDArray[np.float32]) -> tuple[int, float]:
    """The item of a history with the largest part, all its occurrences together, and its share; ties to the newest.

    Args:
        history: item indices, oldest first, at least one; parts: (length,), none negative.
    """
    weights: dict[int, float] = {}
    for item, part in zip(reversed(history), reversed(parts.tolist()), strict=True):
        weights[item] = weights.get(item, 0.0) + part
    best = max(weights, key=weights.__getitem__)  # of equals the first that was met: the newest
    return best, weights[best] / (sum(weights.values()) or 1.0)
