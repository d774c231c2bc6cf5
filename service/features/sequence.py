"""One function turns histories into tensors, for training and for serving alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.errors import FeatureError, UnknownItemIndex

Padding = Literal["left", "right"]


class SequenceFeatures(NamedTuple):
    """What a retriever's encoder reads: item_seq int64 (batch, length), seq_len int64 (batch,)."""

    item_seq: NDArray[np.int64]
    seq_len: NDArray[np.int64]


def encode_sequences(
    histories: Sequence[Sequence[int]],
    max_seq_len: int,
    *,
    padding: Padding = "left",
    length: int | None = None,
    n_items: int | None = None,
) -> SequenceFeatures:
    """Tensors a sequential model reads for a batch of interaction histories.

    Keeps the newest `max_seq_len` items of each history. An empty history gives a row of zeros and length 0.

    Args:
        histories: item indices, oldest first; each may be empty.
        max_seq_len: most items kept per history, at least 1.
        padding: the side that is filled with 0. On the left, the newest item is always in the last column.
        length: number of columns, 1..max_seq_len; by default the longest kept history (at least 1).
        n_items: when given, indices above it are refused too.

    Returns:
        item_seq int64 (batch, length) and seq_len int64 (batch,).

    Raises:
        UnknownItemIndex: an index is below 1 or above `n_items`. ONNX Gather would accept -1 in silence.
        FeatureError: `length` is too small for a kept history or above `max_seq_len`.
    """
    if max_seq_len < 1:
        raise FeatureError(f"max_seq_len is {max_seq_len}, expected at least 1")
    kept = [history[-max_seq_len:] for history in histories]
    longest = max(map(len, kept), default=0)
    columns = max(longest, 1) if length is None else length
    if not max(longest, 1) <= columns <= max_seq_len:
        raise FeatureError(f"length is {columns}, expected {max(longest, 1)}..{max_seq_len}")

    item_seq = np.zeros((len(kept), columns), dtype=np.int64)
    seq_len = np.zeros(len(kept), dtype=np.int64)
    for row, history in enumerate(kept):
        seq_len[row] = len(history)
        if not history:
            continue
        if padding == "left":
            item_seq[row, columns - len(history) :] = history
        else:
            item_seq[row, : len(history)] = history
        lowest, highest = min(history), max(history)
        if lowest < 1 or (n_items is not None and highest > n_items):
            bad = lowest if lowest < 1 else highest
            raise UnknownItemIndex(f"history holds item index {bad}, expected 1..{n_items or 'n_items'}")
    return SequenceFeatures(item_seq, seq_len)


def foreign_items(items: Sequence[int], n_items: int) -> str | None:
    """What is wrong with indices that are not all in 1..n_items, in words; None where they are."""
    if not items or (min(items) >= 1 and max(items) <= n_items):
        return None
    return f"items {min(items)} to {max(items)} of {n_items}"
