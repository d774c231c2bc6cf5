"""One function turns candidates into a tensor, for training and for serving alike; histories go by `sequence`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.errors import FeatureError, UnknownItemIndex

# A slot without a candidate; whatever a ranker says of it is dropped.
EMPTY_SLOT = 0


def encode_candidates(
    candidates: Sequence[Sequence[int]], *, slots: int | None = None, n_items: int | None = None
) -> NDArray[np.int64]:
    """Item indices int64 (batch, slots) that a ranker scores, in the order given, empty slots at the end.

    Args:
        candidates: item indices of each request; may be empty.
        slots: columns; by default those of the longest request (at least 1).
        n_items: when given, indices above it are refused too.

    Raises:
        UnknownItemIndex: an index is below 1 or above `n_items`. ONNX Gather would accept -1 in silence.
        FeatureError: a request has more candidates than `slots`.
    """
    longest = max(map(len, candidates), default=0)
    columns = max(longest, 1) if slots is None else slots
    if longest > columns:
        raise FeatureError(f"a request has {longest} candidates, expected at most {columns}")
    found = np.full((len(candidates), columns), EMPTY_SLOT, dtype=np.int64)
    for row, items in enumerate(candidates):
        found[row, : len(items)] = items
        if len(items):
            lowest, highest = min(items), max(items)
            if lowest < 1 or (n_items is not None and highest > n_items):
                bad = lowest if lowest < 1 else highest
                raise UnknownItemIndex(f"candidates hold item index {bad}, expected 1..{n_items or 'n_items'}")
    return found
