"""Multi-interest encoders: one history in, K vectors out, and how much each item weighs in each of them.

B batch, L length, D width, K interests. Rows are left-padded, so the place of an item is counted from the newest (0),
whatever the padding. Nothing is drawn at random: capsules start their routing from fixed numbers, which are weights.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from models.config import EIMFConfig
from models.layers import MASKED


class Interests(NamedTuple):
    """What a multi-interest encoder says of histories."""

    queries: Tensor  # (B, K, D)
    attention: Tensor  # (B, K, L) the weight of each item in each interest, sums to 1 over real items, 0 on padding


class InterestEncoder(Protocol):
    """A torch module; its output depends on the real items alone. An empty history gives zeros."""

    def __call__(self, vectors: Tensor, mask: Tensor) -> Interests:
        """Interests of item vectors (B, L, D) and mask (B, L), true on real items."""
        ...


class SelfAttentiveInterests(nn.Module):
    """ComiRec-SA (arXiv:2005.09347), which REMI (arXiv:2302.14532) keeps: A = softmax(W2 tanh(W1 (H + P))), V = A H.

    Places shape the weights only, not the values (EIMF sheet, section 4).
    """

    def __init__(self, config: EIMFConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.places = nn.Parameter(torch.empty(config.max_seq_len, width))
        self.hidden = nn.Linear(width, 4 * width, bias=False)
        self.weights = nn.Linear(4 * width, config.n_interests, bias=False)
        nn.init.uniform_(self.places, -(width**-0.5), width**-0.5)

    def forward(self, vectors: Tensor, mask: Tensor) -> Interests:
        vectors = torch.where(mask[..., None], vectors, 0.0)
        placed = vectors + self.places[_places(vectors)]
        scores = self.weights(torch.tanh(self.hidden(placed))).transpose(1, 2)  # (B, K, L)
        attention = (scores + torch.where(mask, 0.0, MASKED)[:, None]).softmax(-1)
        attention = torch.where(mask[:, None], attention, 0.0)  # of an empty history too
        return Interests(attention @ vectors, attention)


class RoutedInterests(nn.Module):
    """ComiRec-DR (arXiv:2005.09347): dynamic routing, each place with its own map to each interest.

    Routing starts from zeros; the maps make the interests differ.
    """

    def __init__(self, config: EIMFConfig) -> None:
        super().__init__()
        self.n_interests, self.n_rounds = config.n_interests, config.routing_rounds
        width = config.hidden_size
        self.maps = nn.Parameter(torch.empty(config.max_seq_len, width, config.n_interests * width))
        nn.init.normal_(self.maps, std=width**-0.5)

    def forward(self, vectors: Tensor, mask: Tensor) -> Interests:
        vectors = torch.where(mask[..., None], vectors, 0.0)
        mapped = torch.einsum("bld,lde->ble", vectors, self.maps[_places(vectors)])
        mapped = mapped.unflatten(-1, (self.n_interests, -1)).transpose(1, 2)  # (B, K, L, D)
        start = torch.zeros_like(mapped[..., 0])
        return route(mapped, start, mask, self.n_rounds)


class MINDInterests(nn.Module):
    """MIND (arXiv:1904.08030): dynamic routing with one map for all, then a rectified linear layer.

    The shared map leaves all interests alike, so routing must start from numbers that differ. The paper draws them anew
    for each user; here they are drawn once, by place, and belong to the model: a history has one answer.
    """

    start: Tensor

    def __init__(self, config: EIMFConfig) -> None:
        super().__init__()
        self.n_rounds = config.routing_rounds
        width = config.hidden_size
        self.map = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)
        self.register_buffer("start", torch.randn(config.n_interests, config.max_seq_len))

    def forward(self, vectors: Tensor, mask: Tensor) -> Interests:
        mapped = self.map(torch.where(mask[..., None], vectors, 0.0))
        start = self.start[:, _places(vectors)][None]  # (1, K, L)
        mapped = mapped[:, None].expand(-1, self.start.shape[0], -1, -1)
        queries, attention = route(mapped, start.expand(mapped.shape[:3]), mask, self.n_rounds)
        some = mask.any(1)[:, None, None]  # the layer's bias is no interest of somebody without a history
        return Interests(torch.where(some, torch.relu(self.out(queries)), 0.0), attention)


def route(mapped: Tensor, start: Tensor, mask: Tensor, n_rounds: int) -> Interests:
    """Dynamic routing of mapped items (B, K, L, D) from `start` (B, K, L); each item is shared out over interests.

    The gradient passes through the last round alone, as published.
    """
    logits, still = start, mapped.detach()
    queries = coupling = torch.empty(0)
    for number in range(n_rounds):
        is_last = number == n_rounds - 1
        coupling = torch.where(mask[:, None], logits.softmax(1), 0.0)  # (B, K, L)
        items = mapped if is_last else still
        queries = squash((coupling[..., None, :] @ items)[..., 0, :])  # (B, K, D)
        if not is_last:
            logits = logits + (still @ queries[..., None])[..., 0]
    return Interests(queries, coupling / coupling.sum(-1, keepdim=True).clamp(min=1e-9))


def squash(x: Tensor) -> Tensor:
    """x with its length l made l^2 / (1 + l^2)."""
    square = (x * x).sum(-1, keepdim=True)
    return x * (square + 1e-12).sqrt() / (1 + square)


def _places(vectors: Tensor) -> Tensor:
    """int64 (L,): 0 for the newest item, which stands last."""
    length = vectors.shape[1]
    return length - 1 - torch.arange(length, device=vectors.device)


def build_interest_encoder(config: EIMFConfig) -> SelfAttentiveInterests | RoutedInterests | MINDInterests:
    """A fresh one of the kind the configuration names; each keeps `InterestEncoder`."""
    kinds: dict[str, type[SelfAttentiveInterests | RoutedInterests | MINDInterests]] = {
        "comirec-sa": SelfAttentiveInterests,
        "remi": SelfAttentiveInterests,  # REMI is this encoder, trained otherwise
        "comirec-dr": RoutedInterests,
        "mind": MINDInterests,
    }
    encoder: SelfAttentiveInterests | RoutedInterests | MINDInterests = kinds[config.retriever](config)
    return encoder
