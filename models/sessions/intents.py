"""Where the intents of a session come from when no language model was asked: behaviour alone.

B batch, L length, D hidden_size, N n_items + 1. An intent lives in the encoder's space: a language model's answer gets
there by one projection that both views share, `z = T h + b` (LLM4SBR sheet, section 4).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import LLM4SBRConfig
from models.layers import MASKED


class Views(NamedTuple):
    """Something of a session in its long and its short view: behaviour (global, local), or intents."""

    long: Tensor  # (B, D)
    short: Tensor  # (B, D)


class IntentSource(Protocol):
    """A torch module that says what a language model would have said; the same for a session however it is padded."""

    reads_titles: bool  # whether it needs the projected titles of the session's items

    def __call__(self, behaviour: Views, titles: Tensor | None, mask: Tensor) -> Views:
        """Intents (B, D) in both views.

        Args:
            titles: (B, L, D), rows of the projected titles, where `reads_titles`.
            mask: bool (B, L), true on real clicks.
        """
        ...


class DistilledIntents(nn.Module):
    """Two small networks that read both views and learn the projected answers (sheet, section 9, design 1)."""

    reads_titles = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.long, self.short = (
            nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(2)
        )

    def forward(self, behaviour: Views, titles: Tensor | None, mask: Tensor) -> Views:
        both = torch.cat(behaviour, dim=-1)
        return Views(self.long(both), self.short(both))


class LocalisedIntents(nn.Module):
    """Titles of the clicked items, each localised as an answer would be: the newest one, and a mean (design 2).

    The mean is weighed by how the session's long view agrees with each title. A title's row is a constant of the item,
    so serving reads a table of width D and never compares a session with the catalogue's texts.
    """

    reads_titles = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ask = nn.Linear(width, width)
        self.scale = width**-0.5

    def forward(self, behaviour: Views, titles: Tensor | None, mask: Tensor) -> Views:
        assert titles is not None, "reads_titles"
        scores = (titles @ self.ask(behaviour.long)[..., None])[..., 0] * self.scale  # (B, L)
        weights = torch.where(mask, scores, MASKED).softmax(-1)
        return Views((weights[:, None] @ titles)[:, 0], titles[:, -1])


class StandInIntents(nn.Module):
    """The views themselves at the mean length of intents: alignment pulls in direction only (design 4)."""

    reads_titles = False
    lengths: Tensor  # (2,) running mean length of the projected answers, by view

    def __init__(self, momentum: float = 0.01) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("lengths", torch.ones(2))

    @torch.no_grad()
    def watch(self, intents: Views) -> None:
        """Takes the lengths of projected answers into the mean."""
        found = torch.stack([view.norm(dim=-1).mean() for view in intents])
        self.lengths.lerp_(found, self.momentum)

    def forward(self, behaviour: Views, titles: Tensor | None, mask: Tensor) -> Views:
        long, short = (F.normalize(view, dim=-1) * length for view, length in zip(behaviour, self.lengths, strict=True))
        return Views(long, short)


def build_intent_source(config: LLM4SBRConfig) -> DistilledIntents | LocalisedIntents | StandInIntents | None:
    """A fresh one of the kind the configuration names; each keeps `IntentSource`."""
    if config.intents == "distilled":
        return DistilledIntents(config.hidden_size)
    if config.intents == "localised":
        return LocalisedIntents(config.hidden_size)
    return StandInIntents() if config.intents == "stand_in" else None


def alignment_uniformity(left: Tensor, right: Tensor) -> Tensor:
    """Scalar: mean squared distance of pairs, plus the mean of both sides' uniformity; directions alone count.

    U(x) = log mean_{b<b'} exp(-2 |x_b - x_b'|^2) (sheet, section 4; normalised as in the published code).

    Args:
        left, right: (n, D), n at least 2: a single row has no pair.
    """
    left, right = F.normalize(left, dim=-1), F.normalize(right, dim=-1)
    align = (left - right).square().sum(-1).mean()
    return align + (_uniformity(left) + _uniformity(right)) / 2


def _uniformity(x: Tensor) -> Tensor:
    at, other = torch.triu_indices(len(x), len(x), offset=1, device=x.device)
    # Of unit vectors |x - y|^2 = 2 - 2 <x, y>.
    square = 2 - 2 * (x @ x.T)[at, other]
    return (-2 * square).logsumexp(0) - torch.log(torch.tensor(float(len(at)), device=x.device))


def distillation(predicted: Tensor, intents: Tensor) -> Tensor:
    """Scalar 1 - cos + mean squared error of predicted intents (n, D); the intents themselves are not moved."""
    intents = intents.detach()
    return (1 - F.cosine_similarity(predicted, intents)).mean() + F.mse_loss(predicted, intents)


class Gate(nn.Module):
    """Scalar q . sigmoid(behaviour + intent) of each session, (B, 1): no bias, not confined to 0..1 (section 4).

    Starts at about 1 for everybody, so that the model starts as its plain encoder; the paper draws q around 0.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((width, 1), 2.0 / width))

    def forward(self, behaviour: Tensor, intent: Tensor) -> Tensor:
        return torch.sigmoid(behaviour + intent) @ self.weights
