"""Every prefix of every training session with the click after it, as flat arrays; a batch is one gather."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.sequences import Sequences

_WINDOW = 32  # batches


class PrefixBatch(NamedTuple):
    """B prefixes and their targets. L the longest prefix among them, left-padded."""

    prefixes: Tensor  # (B,) which prefix each row is, 0..n_prefixes - 1 of `SessionPrefixes`
    sessions: Tensor  # (B,) row of the training sessions
    item_seq: Tensor  # (B, L)
    seq_len: Tensor  # (B,)
    targets: Tensor  # (B,) the click after the prefix


class SessionPrefixes:
    """The prefixes of `train`, session by session, the shortest first: a session of n clicks has n - 1.

    The split comes first and the prefixes after it, so no session stands on both sides.
    """

    def __init__(
        self, train: Sequences, max_seq_len: int, device: torch.device, keep: NDArray[np.bool_] | None = None
    ) -> None:
        """
        Args:
            max_seq_len: newest clicks of a prefix that are kept.
            keep: bool (prefixes of `train`,), which of them to train on; by default all. Numbers stay those of all.
        """
        lengths = np.maximum(train.lengths - 1, 0)
        sessions = np.repeat(np.arange(len(train)), lengths)
        cuts = np.arange(len(sessions)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + 1
        self.sessions = torch.as_tensor(sessions, device=device)  # (n,)
        self.cuts = torch.as_tensor(cuts, device=device)  # (n,) clicks before the target, none cut off
        self._items = torch.as_tensor(train.items, dtype=torch.int64, device=device)
        self._target_at = torch.as_tensor(train.offsets[sessions] + cuts, device=device)
        self._max_seq_len = max_seq_len
        kept = np.arange(len(sessions)) if keep is None else np.flatnonzero(keep)
        self.trained = torch.as_tensor(kept, device=device)

    def __len__(self) -> int:
        """All prefixes, also those that are not trained on."""
        return len(self.sessions)

    def n_batches(self, batch_size: int) -> int:
        """How many batches an epoch has."""
        full, rest = divmod(len(self.trained), _WINDOW * batch_size)
        return full * _WINDOW + -(-rest // batch_size)

    def batch(self, prefixes: Tensor) -> PrefixBatch:
        """The prefixes of the given numbers (B,), padded to the longest of them."""
        seq_len = self.cuts[prefixes].clamp(max=self._max_seq_len)
        target_at = self._target_at[prefixes]
        length = max(int(seq_len.max()), 1)
        columns = torch.arange(length, device=prefixes.device)
        item_seq = self._items[(target_at[:, None] - length + columns).clamp(min=0)]
        item_seq = torch.where(columns >= length - seq_len[:, None], item_seq, 0)
        return PrefixBatch(prefixes, self.sessions[prefixes], item_seq, seq_len, self._items[target_at])

    def epoch(self, batch_size: int, generator: torch.Generator) -> Iterator[PrefixBatch]:
        """Every prefix that is trained on once, in random batches of similar length."""
        n = len(self.trained)
        order = self.trained[torch.randperm(n, generator=generator).to(self.trained.device)]
        batches = [
            chunk
            for part in order.split(_WINDOW * batch_size)
            for chunk in part[torch.argsort(self.cuts[part], stable=True)].split(batch_size)
        ]
        for at in torch.randperm(len(batches), generator=generator).tolist():
            yield self.batch(batches[at])
