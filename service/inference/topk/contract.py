"""What every top-k backend promises: the exact answer, or by how much it may miss it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ranked = tuple[NDArray[np.int64], NDArray[np.float32]]


class TopK(Protocol):
    """Every backend gives the same answer; they differ in speed and memory."""

    fallbacks: int  # rows so far that were left to a slower backend

    def search(self, queries: NDArray[np.float32], k: int, excluded: Sequence[NDArray[np.int64]]) -> list[Ranked]:
        """Per row of `queries` (batch, n_queries, dim): at most k item indices and scores, best first.

        Ties go to the lowest index. Row 0, unavailable items and the row's `excluded` indices never appear; with
        fewer than k items left the arrays are shorter. A row with NaN in its queries gets no items.
        """


def check_tables(items: NDArray[np.float32], available: NDArray[np.bool_]) -> None:
    """Nothing, when the two fit each other.

    Raises:
        ValueError: items are not a float32 matrix, or `available` has another number of rows.
    """
    if items.dtype != np.float32 or items.ndim != 2:
        raise ValueError(f"items are {items.dtype} with {items.ndim} axes, expected float32 with 2")
    if available.shape != (len(items),):
        raise ValueError(f"available has shape {available.shape}, expected ({len(items)},)")


def check_search(queries: NDArray[np.float32], k: int, excluded: Sequence[NDArray[np.int64]]) -> None:
    """Nothing, when a search can be made of these.

    Raises:
        ValueError: k is below 1, or `excluded` has not one row per row of `queries`.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    if len(excluded) != len(queries):
        raise ValueError(f"excluded has {len(excluded)} rows, queries have {len(queries)}")
