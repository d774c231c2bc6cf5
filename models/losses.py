"""What training minimises. P real positions of a batch, D dim, N n_items + 1."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import LossConfig
from models.full_softmax import full_softmax


class SeenItems:
    """Which (user, item) pairs occur in training, answered for whole tensors at once."""

    def __init__(self, users: Tensor, items: Tensor, n_rows: int) -> None:
        self._n_rows = n_rows
        self._keys = torch.unique(users * n_rows + items)  # sorted

    def contains(self, users: Tensor, items: Tensor) -> Tensor:
        """bool, shaped as `items`; `users` broadcasts against it."""
        keys = users * self._n_rows + items
        found = torch.searchsorted(self._keys, keys).clamp(max=len(self._keys) - 1)
        return self._keys[found] == keys


class Negatives(NamedTuple):
    """Shared negatives of one step."""

    items: Tensor  # (K,) rows of the table at hand
    log_q: Tensor  # (K,) log of the probability that each was drawn


class NegativeItems:
    """Draws the negatives that all positions of a batch share."""

    def __init__(self, kind: Literal["uniform", "popular"], popularity: Tensor) -> None:
        """
        Args:
            popularity: (N,) training interactions by item index; padding's is 0.
        """
        weights = torch.ones_like(popularity) if kind == "uniform" else popularity
        weights = weights.double()
        weights[0] = 0.0
        self._cumulative = weights.cumsum(0)
        self._log_q = (weights / self._cumulative[-1]).log().float()

    def draw(self, n: int) -> Negatives:
        """n items, drawn with repetition."""
        at = torch.rand(n, dtype=torch.float64, device=self._cumulative.device) * self._cumulative[-1]
        items = torch.searchsorted(self._cumulative, at, right=True)  # steps of width 0, padding's too, are never hit
        return Negatives(items, self._log_q[items])


def ranking_loss(
    config: LossConfig,
    states: Tensor,
    targets: Tensor,
    users: Tensor,
    table: Tensor,
    seen: SeenItems,
    negatives: Negatives,
) -> Tensor:
    """Scalar loss of states (P, D) against their next items (P,), of users (P,), over table (N, D).

    `negatives` serve sampled_softmax, which may be given the rows of a part of the catalogue alone; bce draws its own.
    """
    if config.kind == "bce":
        return _bce(config, states, targets, users, table, seen)
    if config.kind == "full_softmax":
        return full_softmax(states, table[1:], targets - 1)
    return _sampled_softmax(config, states, targets, table, *negatives)


def _bce(config: LossConfig, states: Tensor, targets: Tensor, users: Tensor, table: Tensor, seen: SeenItems) -> Tensor:
    """Binary cross entropy, negatives uniform over items outside the user's training sequence (sheet, section 6)."""
    shape = (len(targets), config.n_negatives)
    negatives = torch.randint(1, table.shape[0], shape, device=targets.device)
    for _ in range(8):  # a seen item is drawn again; after eight draws of a dense user it is let through
        clash = seen.contains(users[:, None], negatives)
        if not clash.any():
            break
        negatives = torch.where(clash, torch.randint_like(negatives, 1, table.shape[0]), negatives)
    positive = (states * F.embedding(targets, table)).sum(-1)
    negative = torch.einsum("pd,pkd->pk", states, F.embedding(negatives, table))
    return F.softplus(-positive).mean() + F.softplus(negative).mean()


def _sampled_softmax(
    config: LossConfig, states: Tensor, targets: Tensor, table: Tensor, negatives: Tensor, log_q: Tensor
) -> Tensor:
    """Cross entropy of the next item against negatives that all positions of the batch share.

    With the logQ correction a negative drawn with probability q stands for the 1 / (n q) items that it was drawn for,
    so that the sum over negatives estimates the sum over the catalogue. The target was not drawn: it stands for itself.
    """
    positive = (states * F.embedding(targets, table)).sum(-1, keepdim=True)  # (P, 1)
    negative = states @ F.embedding(negatives, table).T  # (P, K)
    if config.log_q:
        negative = negative - (log_q + math.log(len(negatives)))
    negative = negative.masked_fill(negatives[None, :] == targets[:, None], float("-inf"))
    return (torch.cat([positive, negative], dim=1).logsumexp(1) - positive[:, 0]).mean()


def hard_softmax(states: Tensor, targets: Tensor, table: Tensor, negatives: Tensor, beta: float) -> Tensor:
    """Cross entropy of states (P, D) against shared negatives (K,), where the harder ones weigh more (REMI).

    A negative with score s_j weighs exp(beta s_j) / mean_j exp(beta s_j) (arXiv:2302.14532, interest-aware hard
    negatives); beta 0 is the plain sampled softmax. A target among the negatives is none of its own.
    """
    positive = (states * F.embedding(targets, table)).sum(-1, keepdim=True)  # (P, 1)
    negative = states @ F.embedding(negatives, table).T  # (P, K)
    clash = negatives[None, :] == targets[:, None]
    others = (~clash).sum(1, keepdim=True).clamp(min=1)
    mean = (beta * negative).masked_fill(clash, float("-inf")).logsumexp(1, keepdim=True) - others.log()
    weighted = ((1 + beta) * negative - mean).masked_fill(clash, float("-inf"))
    return (torch.cat([positive, weighted], dim=1).logsumexp(1) - positive[:, 0]).mean()


def distillation_loss(students: Tensor, teachers: Tensor, weights: Tensor) -> Tensor:
    """Mean squared distance of students (B, D) to the mean of their teachers (B, n, D) (LLM-ESR, section 5).

    Args:
        weights: float (B, n), 1 where a teacher has a history and 0 where it is empty; a student without any
            teacher adds nothing.
    """
    n = weights.sum(1)
    mean = (teachers * weights[..., None]).sum(1) / n.clamp(min=1)[:, None]
    distance = ((students - mean.detach()) ** 2).mean(1)
    has_teacher = (n > 0).to(distance.dtype)
    return (distance * has_teacher).sum() / has_teacher.sum().clamp(min=1)
