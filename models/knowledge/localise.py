"""Intent localisation (LLM4SBR sheet, section 3): what a language model named, moved to where the catalogue is."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.errors import KnowledgeError

Weights = Literal["cosine", "normalised"]
_BLOCK_SCORES: Final = 16_000_000  # floats of one block: 64 MB, whatever the catalogue


class Localised(NamedTuple):
    """Vectors among the catalogue's texts, and the items they were made of. n queries, D dimensions, r neighbours."""

    vectors: NDArray[np.float32]  # (n, D)
    neighbours: NDArray[np.int32]  # (n, r) item indices, nearest first
    similarities: NDArray[np.float32]  # (n, r) cosines of the neighbours


def localise(
    queries: NDArray[np.float32], items: NDArray[np.float32], r: int, weights: Weights = "cosine"
) -> Localised:
    """h = sum over the r items nearest to q by cosine of s_j e_j, s_j the cosine of that very item (Eq. 4-5).

    The published script pairs the nearest items' vectors with the cosines of the catalogue's first rows (sheet, 8.1).

    Args:
        queries: (n, D); a zero query has cosine 0 to everything and gives zeros.
        items: (n_items + 1, D); row 0 and items without a text (zero rows) are nobody's neighbours.
        r: 0 gives the queries themselves.
        weights: `normalised` divides by the sum of the cosines, so that a vector's length says nothing.

    Raises:
        KnowledgeError: fewer than r items have a text.
    """
    if r == 0:
        empty = np.empty((len(queries), 0))
        return Localised(queries.astype(np.float32), empty.astype(np.int32), empty.astype(np.float32))
    known = np.flatnonzero((items != 0).any(1))
    known = known[known > 0]
    if len(known) < r:
        raise KnowledgeError(f"{len(known)} items have a text, expected at least the {r} neighbours of a query")
    texts = items[known].astype(np.float32)
    directions = _unit(texts)
    found = [
        _nearest(_unit(block), directions, r)
        for block in np.array_split(queries, max(1, -(-len(queries) * len(known) // _BLOCK_SCORES)))
    ]
    at = np.concatenate([places for places, _ in found])
    cosines = np.concatenate([values for _, values in found])
    shares = cosines
    if weights == "normalised":
        total = cosines.sum(1, keepdims=True)
        shares = cosines / np.where(np.abs(total) > 1e-6, total, 1)
    vectors = np.einsum("nr,nrd->nd", shares, texts[at])
    return Localised(vectors.astype(np.float32), known[at].astype(np.int32), cosines.astype(np.float32))


def _nearest(
    queries: NDArray[np.float32], directions: NDArray[np.float32], r: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows (n, r) of the highest cosines, the lower row first among equals, and the cosines."""
    scores = queries @ directions.T
    places = np.argpartition(-scores, r - 1, axis=1)[:, :r]
    values = np.take_along_axis(scores, places, 1)
    order = np.lexsort((places, -values), axis=1)
    return np.take_along_axis(places, order, 1), np.take_along_axis(values, order, 1)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)
