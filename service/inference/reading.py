"""What an encoder made of one history, for whoever explains an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.features.sequence import Padding


@dataclass(frozen=True, slots=True)
class IntentItems:
    """The items that an LLM's intents, as predicted from one history, are known by: long-term row 0, short-term 1."""

    items: NDArray[np.int64]  # (2, n) item indices, nearest first
    cosines: NDArray[np.float32]  # (2, n)


@dataclass(frozen=True, slots=True)
class Reading:
    """Queries of one history, and how much each item that was read weighs in each of them."""

    queries: NDArray[np.float32]  # (n_queries, dim)
    attention: NDArray[np.float32] | None  # (n_queries, items read), oldest first; None: the graph does not say
    intents: IntentItems | None = None  # likewise


def without_padding(
    attention: NDArray[np.float32], seq_len: NDArray[np.int64], padding: Padding
) -> Sequence[NDArray[np.float32]]:
    """Per row of attention (batch, n_queries, length) the columns of its real items, oldest first."""
    length = attention.shape[2]
    if padding == "right":
        return [row[:, :n] for row, n in zip(attention, seq_len.tolist(), strict=True)]
    return [row[:, length - n :] for row, n in zip(attention, seq_len.tolist(), strict=True)]
