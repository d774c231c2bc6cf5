"""Which positions of a batch are taught what. B users, L inputs, V x D the width of a state, P taught positions."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from models.batches import TrainBatch
from models.config import LLMESRConfig, LossConfig
from models.llm_esr import LLMESR


class Taught(NamedTuple):
    """What the losses read."""

    states: Tensor  # (P, V x D)
    targets: Tensor  # (P,) the item each state should name
    users: Tensor  # (P,)
    students: Tensor  # (B, V x D) state of each user's input, the last training item left out


class Objective(Protocol):
    def __call__(self, model: LLMESR, table: Tensor, batch: TrainBatch) -> Taught: ...


class NextItem:
    """Each position names the item after it: SASRec, GRU4Rec. `last_only` teaches one position a user.

    The student's input is the ranking loss's own (both leave out the last training item), so one pass serves both.
    """

    def __init__(self, last_only: bool) -> None:
        self.last_only = last_only

    def __call__(self, model: LLMESR, table: Tensor, batch: TrainBatch) -> Taught:
        vectors, mask = F.embedding(batch.item_seq, table), batch.targets > 0
        states = model.encode_positions(vectors, mask, last_only=self.last_only)
        students = states[:, -1]
        if self.last_only:
            return Taught(students, batch.targets[:, -1], batch.users, students)
        users = batch.users[:, None].expand_as(mask)
        return Taught(states[mask], batch.targets[mask], users[mask], students)


class MaskedItem:
    """Each masked position names the item that was there: BERT4Rec (sheet, section 6).

    Every sequence is read twice: with items masked at random, and with only the last one masked, which is how the
    model is asked when it serves (and so the student's input). Of the items masked at random 80 % become the mask
    token, 10 % another item (of the table at hand, which may be a part of the catalogue) and 10 % stay.
    """

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, model: LLMESR, table: Tensor, batch: TrainBatch) -> Taught:
        items = torch.cat([batch.item_seq, batch.targets[:, -1:]], dim=1)  # (B, L + 1) whole training sequences
        real = items > 0
        chosen = (torch.rand(items.shape, device=items.device) < self.probability) & real
        fate = torch.rand(items.shape, device=items.device)
        other = torch.randint_like(items, 1, table.shape[0])
        read = torch.where(chosen & (fate >= 0.8) & (fate < 0.9), other, items)
        last = torch.zeros_like(real)
        last[:, -1] = True
        read, masked = torch.cat([read, items]), torch.cat([chosen & (fate < 0.8), last])  # (2B, L + 1)
        states = model.encode_positions(model.masked_vectors(F.embedding(read, table), masked), real.repeat(2, 1))
        taught = torch.cat([chosen, last])
        users = batch.users.repeat(2)[:, None].expand_as(taught)
        return Taught(states[taught], items.repeat(2, 1)[taught], users[taught], states[len(items) :, -1])


def make_objective(model: LLMESRConfig, loss: LossConfig) -> Objective:
    """The objective of the model's backbone."""
    if model.backbone == "bert4rec":
        return MaskedItem(loss.mask_probability)
    return NextItem(loss.positions == "last")
