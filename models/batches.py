"""Training histories on the device, and batches cut from them without a Python loop per user."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from models.data.dataset import Sequences


class TrainBatch(NamedTuple):
    """A batch of next-item training. B users, L the longest input among them, left-padded."""

    users: Tensor  # (B,)
    item_seq: Tensor  # (B, L) inputs: the training sequence without its last item
    targets: Tensor  # (B, L) the item after each input, 0 on padding
    seq_len: Tensor  # (B,)


def compact(batch: TrainBatch, others: Tensor) -> tuple[Tensor, TrainBatch, Tensor]:
    """The items (U,) that a batch and `others` (K,) name, ascending and 0 first; both again, as positions in there."""
    shape = batch.item_seq.shape
    named = torch.cat([others.new_zeros(1), batch.item_seq.flatten(), batch.targets.flatten(), others])
    items, at = torch.unique(named, return_inverse=True)
    _, item_seq, targets, others = at.split([1, shape.numel(), shape.numel(), len(others)])
    return items, batch._replace(item_seq=item_seq.view(shape), targets=targets.view(shape)), others


class TrainingHistories:
    """Training sequences as one flat tensor; any batch is one gather."""

    def __init__(self, train: Sequences, max_seq_len: int, device: torch.device, fixed_length: int | None) -> None:
        self._items = torch.as_tensor(train.items, dtype=torch.int64, device=device)
        if not len(self._items):
            self._items = torch.zeros(1, dtype=torch.int64, device=device)
        offsets = torch.as_tensor(train.offsets, dtype=torch.int64, device=device)
        self._ends = offsets[1:]
        self._fixed_length = fixed_length
        # Inputs leave out the last item: it is the target of the last input (and what a teacher must not see).
        self.input_len = (offsets.diff() - 1).clamp(min=0, max=max_seq_len)
        self.trainable = torch.nonzero(self.input_len > 0)[:, 0]

    def batch(self, users: Tensor) -> TrainBatch:
        """Inputs and targets of `users` (B,), padded to the longest of them."""
        seq_len = self.input_len[users]
        length = self._fixed_length or max(int(seq_len.max()), 1)
        columns = torch.arange(length, device=users.device)
        real = columns >= length - seq_len[:, None]  # (B, L)
        at = ((self._ends[users] - 1 - length)[:, None] + columns).clamp(min=0)
        item_seq = torch.where(real, self._items[at], 0)
        targets = torch.where(real, self._items[(at + 1).clamp(max=len(self._items) - 1)], 0)
        return TrainBatch(users, item_seq, targets, seq_len)

    def epoch(self, batch_size: int, generator: torch.Generator) -> Iterator[TrainBatch]:
        """Every trainable user once, in random batches of users with similar length."""
        order = self.trainable[torch.randperm(len(self.trainable), generator=generator).to(self.trainable.device)]
        window = 32 * batch_size  # random users, sorted by length: batches stay mixed, padding stays small
        batches = [
            chunk
            for part in order.split(window)
            for chunk in part[torch.argsort(self.input_len[part], stable=True)].split(batch_size)
        ]
        for at in torch.randperm(len(batches), generator=generator).tolist():
            yield self.batch(batches[at])

    def by_length(self, users: Tensor, group_size: int) -> Iterator[Tensor]:
        """Positions within `users` in groups of similar length, to encode many users with little padding."""
        yield from torch.argsort(self.input_len[users], stable=True).split(group_size)


def n_batches(n_users: int, batch_size: int) -> int:
    """How many batches `TrainingHistories.epoch` yields for `n_users` trainable users."""
    window = 32 * batch_size
    full, rest = divmod(n_users, window)
    return full * 32 + -(-rest // batch_size)
