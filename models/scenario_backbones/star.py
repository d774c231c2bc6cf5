"""STAR (CIKM 2021): each scenario's weights are the shared ones times its own (sheet of LLM4MSR, 11.1)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.scenario_backbones.parts import Backbone, pick

EPSILON = 1e-5


class STAR(Backbone):
    """Partitioned normalisation, a star-shaped network, and an auxiliary network that knows the scenario.

    The logit is the sum of both networks', each without a final ReLU. Statistics are moving ones of each scenario, so
    that a score does not depend on who else is in the batch.
    """

    def __init__(self, n_scenarios: int, width: int, hidden: Sequence[int], auxiliary: int) -> None:
        super().__init__()
        self.norm = PartitionedNorm(n_scenarios, width)
        self.layers = nn.ModuleList(StarLinear(n_scenarios, *sizes) for sizes in pairwise([width, *hidden, 1]))
        self.auxiliary = Auxiliary(n_scenarios, width, auxiliary)

    def forward(self, features: Tensor, scenario_index: Tensor, filled: Tensor) -> Tensor:
        x = self.norm(features, scenario_index, filled)
        for place, layer in enumerate(self.layers):
            x = layer(F.relu(x) if place else x, scenario_index)
        logits: Tensor = x[..., 0] + self.auxiliary(features, scenario_index)
        return logits

    def folded(self) -> nn.Module:
        return FoldedSTAR(self)


class PartitionedNorm(nn.Module):
    """Normalises by the statistics of the request's scenario: of the batch in training, moving ones afterwards."""

    mean: Tensor
    variance: Tensor

    def __init__(self, n_scenarios: int, width: int, momentum: float = 0.05) -> None:
        super().__init__()
        self.momentum = momentum
        self.shared_scale, self.shared_shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(n_scenarios, width))
        self.shift = nn.Parameter(torch.zeros(n_scenarios, width))
        self.register_buffer("mean", torch.zeros(n_scenarios, width))
        self.register_buffer("variance", torch.ones(n_scenarios, width))

    def forward(self, x: Tensor, scenario_index: Tensor, filled: Tensor) -> Tensor:
        mean, variance = self._batch(x, scenario_index, filled) if self.training else (self.mean, self.variance)
        scale, shift = self.affine(mean, variance)
        return x * pick(scale, scenario_index)[:, None] + pick(shift, scenario_index)[:, None]

    def affine(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """(S, D) twice: what x is multiplied with, and what is added."""
        scale = self.shared_scale * self.scale / (variance + EPSILON).sqrt()
        return scale, self.shared_shift + self.shift - mean * scale

    def _batch(self, x: Tensor, scenario_index: Tensor, filled: Tensor) -> tuple[Tensor, Tensor]:
        """Statistics (S, D) of the filled slots of each scenario; the moving ones where it has fewer than two."""
        there = filled[..., None].to(x.dtype)  # (B, C, 1)
        member = F.one_hot(scenario_index, len(self.mean)).to(x.dtype).T  # (S, B)
        count = member @ there.sum(1)  # (S, 1)
        mean = member @ (x * there).sum(1) / count.clamp(min=1)
        centred = (x - pick(mean, scenario_index)[:, None]) * there
        variance = member @ centred.square().sum(1) / count.clamp(min=1)
        enough = count >= 2
        with torch.no_grad():
            step = self.momentum * enough
            self.mean.lerp_(mean, step.expand_as(mean))
            self.variance.lerp_(variance, step.expand_as(variance))
        return torch.where(enough, mean, self.mean), torch.where(enough, variance, self.variance)


class StarLinear(nn.Module):
    """x (W_s * W) + b_s + b, the product of matrices taken element by element."""

    def __init__(self, n_scenarios: int, d_in: int, d_out: int) -> None:
        super().__init__()
        self.shared = nn.Parameter(torch.empty(d_in, d_out).uniform_(-(d_in**-0.5), d_in**-0.5))
        self.shared_bias = nn.Parameter(torch.zeros(d_out))
        # Near 1: a scenario starts from the shared network.
        self.own = nn.Parameter(1 + 0.01 * torch.randn(n_scenarios, d_in, d_out))
        self.own_bias = nn.Parameter(torch.zeros(n_scenarios, d_out))

    def combined(self) -> tuple[Tensor, Tensor]:
        """Weights (S, d_in, d_out) and biases (S, d_out)."""
        return self.own * self.shared, self.own_bias + self.shared_bias

    def forward(self, x: Tensor, scenario_index: Tensor) -> Tensor:
        weight, bias = self.combined()
        return x @ pick(weight, scenario_index) + pick(bias, scenario_index)[:, None]


class Auxiliary(nn.Module):
    """(B, C) logits from the features beside an embedding of the scenario."""

    def __init__(self, n_scenarios: int, width: int, size: int) -> None:
        super().__init__()
        self.scenario = nn.Parameter(0.1 * torch.randn(n_scenarios, size))
        self.hidden, self.out = nn.Linear(width, size), nn.Linear(size, 1)

    def forward(self, features: Tensor, scenario_index: Tensor) -> Tensor:
        # [x, embedding] W = x W_x + embedding W_e; the latter is a row of each scenario's own.
        hidden = F.relu(self.hidden(features) + F.embedding(scenario_index, self.scenario)[:, None])
        found: Tensor = self.out(hidden)[..., 0]
        return found


class FoldedSTAR(nn.Module):
    """STAR in eval mode: normalisation and both factors of every weight in one matrix of each scenario."""

    def __init__(self, star: STAR) -> None:
        super().__init__()
        self.auxiliary = star.auxiliary
        scale, shift = star.norm.affine(star.norm.mean, star.norm.variance)
        self.n_layers = len(star.layers)
        for place, layer in enumerate(star.layers):
            assert isinstance(layer, StarLinear)
            weight, bias = layer.combined()
            if place == 0:
                bias = bias + (shift[:, None] @ weight)[:, 0]
                weight = scale[..., None] * weight
            self.register_buffer(f"weight_{place}", weight.detach().contiguous())
            self.register_buffer(f"bias_{place}", bias.detach().contiguous())

    def forward(self, features: Tensor, scenario_index: Tensor, filled: Tensor) -> Tensor:
        x = features
        for place in range(self.n_layers):
            weight, bias = getattr(self, f"weight_{place}"), getattr(self, f"bias_{place}")
            x = (F.relu(x) if place else x) @ pick(weight, scenario_index) + pick(bias, scenario_index)[:, None]
        logits: Tensor = x[..., 0] + self.auxiliary(features, scenario_index)
        return logits
