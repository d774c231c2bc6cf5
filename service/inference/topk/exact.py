"""Scores whose rounding depends on the item's own numbers alone, and how far faster ones may lie from them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROWS_AT_ONCE = 65_536


def exact_scores(queries: NDArray[np.float64], vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """(..., n) best score of each vector (..., n, dim) over its queries (..., n_queries, dim).

    Summed without BLAS, whose rounding depends on where in a matrix a vector lies: so equal items tie.
    """
    return np.asarray(np.einsum("...nd,...qd->...nq", vectors.astype(np.float64), queries).max(axis=-1))


def largest_norm(items: NDArray[np.float32]) -> float:
    """Length of the longest vector of rows 1 and up."""
    return max(
        (
            float(norms(items[start : start + _ROWS_AT_ONCE]).max(initial=0.0))
            for start in range(1, len(items), _ROWS_AT_ONCE)
        ),
        default=0.0,
    )


def query_norms(queries: NDArray[np.float32]) -> NDArray[np.float64]:
    """(batch,) length of the longest of each row's queries."""
    return np.asarray(np.sqrt(np.square(queries, dtype=np.float64).sum(axis=2)).max(axis=1))


def rounding(queries: NDArray[np.float32], longest_item: float) -> NDArray[np.float64]:
    """(batch,) more than the float32 scores of two items can be off by together.

    A dot product of length d is off by at most d x eps / 2 x |query| x |item| (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1). Four times that leaves room for rounding a threshold to float32 as well.
    """
    eps = float(np.finfo(np.float32).eps)
    return np.asarray(2.0 * queries.shape[2] * eps * longest_item * query_norms(queries))


def norms(vectors: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) lengths."""
    return np.asarray(np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1)))
