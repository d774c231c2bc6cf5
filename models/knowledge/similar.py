"""Which users say alike: top-k cosine neighbours, in blocks, without the full users x users matrix."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.knowledge.encoders import Report

BLOCK_BYTES: Final = 64 * 2**20  # of similarities at a time, whatever the number of users


def similar_users(
    vectors: NDArray[np.float32], n: int, known: NDArray[np.bool_], report: Report | None = None
) -> NDArray[np.int32]:
    """The `n` nearest other users of every user by cosine, nearest first, ties to the lowest row.

    A user is never its own neighbour, also where others have the same vector: LLM-ESR drops rank 0 instead, which
    leaves a user in its own list when prompts repeat. Users outside `known` (no training text) are nobody's neighbour.

    Args:
        vectors: float32 (users, D), any length; zeros have cosine 0 with everybody.
        known: bool (users,).

    Returns:
        int32 (users, min(n, known users - 1)), rows of `vectors`.
    """
    n = max(0, min(n, int(known.sum()) - 1))
    neighbours = np.empty((len(vectors), n), dtype=np.int32)
    if n == 0:
        return neighbours
    # Equal vectors are compared once: a matrix product rounds equal columns differently, and ties would not be ties.
    unique, group = np.unique(vectors, axis=0, return_inverse=True)
    group = group.reshape(-1)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    unit = unique / np.maximum(np.linalg.norm(unique, axis=1, keepdims=True), 1e-12)
    block = max(1, BLOCK_BYTES // (8 * len(vectors)))
    for start in range(0, len(unit), block):
        cosine = (unit[start : start + block] @ unit.T)[:, group]  # (block, users)
        cosine[:, ~known] = -np.inf
        for offset, nearest in enumerate(_top(cosine, n + 1)):
            for user in members[start + offset]:
                neighbours[user] = nearest[nearest != user][:n]
        if report is not None:
            report(min(start + block, len(unit)), len(unit))
    return neighbours


def _top(scores: NDArray[np.float32], k: int) -> list[NDArray[np.int64]]:
    """Per row the columns of the k highest scores, best first, ties to the lowest column."""
    kth = np.partition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k]
    best = []
    for row, least in zip(scores, kth, strict=True):
        columns = np.flatnonzero(row >= least)
        best.append(columns[np.argsort(-row[columns], kind="stable")][:k])
    return best
