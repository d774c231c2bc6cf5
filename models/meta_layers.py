"""LLM4MSR's hierarchical meta networks (sheet, section 4): vectors of an LLM become weights of small layers.

B requests, C candidates of each, D width of their features, Z bottleneck, H width of the LLM's vectors, S scenarios.
The layers of a request are the same for all its candidates: one product (C, D) x (D, D) a request, none is generated
for a candidate.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.scenario_backbones.parts import pick

SLOPE = 0.1  # of the LeakyReLU, as in M2M's meta unit; at 0 it must not be flat, or zero-initialised layers never learn


class Bottleneck(nn.Module):
    """z (n, Z) of frozen vectors (n, H): raw activations have coordinates far out, hence the normalisation."""

    def __init__(self, vector_size: int, z_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(vector_size)
        self.layer = nn.Linear(vector_size, z_size)

    def forward(self, vectors: Tensor) -> Tensor:
        return F.relu(self.layer(self.norm(vectors)))


class Generator(nn.Module):
    """Weights (n, d_in, d_out) and biases (n, d_out) of one layer from z (n, Z).

    Args:
        zero: starts as the layer that gives 0 for everything, else as small noise.
    """

    def __init__(self, z_size: int, d_in: int, d_out: int, *, zero: bool) -> None:
        super().__init__()
        self.d_in, self.d_out = d_in, d_out
        self.layer = nn.Linear(z_size, (d_in + 1) * d_out)
        for parameter in self.layer.parameters():
            if zero:
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.01)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = self.layer(z).split([self.d_in * self.d_out, self.d_out], dim=-1)
        return weight.unflatten(-1, (self.d_in, self.d_out)), bias


class UserLevel(nn.Module):
    """Meta layers of a user at the bottom: features (B, C, D) + what the layers make of them.

    The last layer starts at zero, so the features pass unchanged until it has learnt.
    """

    def __init__(self, vector_size: int, behaviour_size: int, z_size: int, width: int, n_layers: int) -> None:
        super().__init__()
        self.bottleneck = Bottleneck(vector_size, z_size)
        self.layers = nn.ModuleList(
            Generator(z_size, width, width, zero=place == n_layers - 1) for place in range(n_layers)
        )
        self.default = nn.Parameter(torch.zeros(z_size))
        self.head = nn.Sequential(nn.Linear(behaviour_size, z_size), nn.ReLU(), nn.Linear(z_size, z_size), nn.ReLU())

    def predict(self, behaviour: Tensor) -> Tensor:
        """z (B, Z) from the behaviour (B, behaviour_size) of somebody the LLM never saw."""
        found: Tensor = self.head(behaviour)
        return found

    def forward(self, features: Tensor, z: Tensor) -> Tensor:
        x = features
        for layer in self.layers:
            weight, bias = layer(z)
            x = F.leaky_relu(x @ weight + bias[:, None], SLOPE)
        return features + x


class ScenarioLevel(nn.Module):
    """Meta layers of each scenario beside the backbone: features (B, C, D) -> (B, C) to add to its logits.

    The layer that gives the logit starts at zero. `generated` are the same few layers for every request.
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor, z_size: int, width: int, n_layers: int) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors, persistent=False)  # (S, H)
        self.bottleneck = Bottleneck(vectors.shape[1], z_size)
        self.layers = nn.ModuleList(
            Generator(z_size, width, 1 if place == n_layers - 1 else width, zero=place == n_layers - 1)
            for place in range(n_layers)
        )
        self.strength = nn.Parameter(torch.ones(()))  # lambda of the sheet

    def generated(self) -> list[tuple[Tensor, Tensor]]:
        """Weights (S, d_in, d_out) and biases (S, d_out) of every layer, for all scenarios."""
        z = self.bottleneck(self.vectors)
        return [layer(z) for layer in self.layers]

    def forward(self, features: Tensor, scenario_index: Tensor) -> Tensor:
        return self.strength * apply_generated(self.generated(), features, scenario_index)


def apply_generated(layers: list[tuple[Tensor, Tensor]], features: Tensor, scenario_index: Tensor) -> Tensor:
    """(B, C) of features (B, C, D) by the layers of each request's scenario."""
    x = features
    for place, (weight, bias) in enumerate(layers):
        x = F.leaky_relu(x, SLOPE) if place else x
        x = x @ pick(weight, scenario_index) + pick(bias, scenario_index)[:, None]
    return x[..., 0]
