"""PEPNet (KDD 2023): gates scale the features by scenario and each layer of a tower by who asks (sheet, 11.4)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.scenario_backbones.parts import Backbone, PerScenario

GAMMA = 2.0  # of the paper: a gate lies between 0 and 2, and one that says nothing is 1


class PEPNet(Backbone):
    """EPNet: O = delta * x. PPNet: H_0 = O, H_{l+1} = relu((delta_l * H_l) W_l + b_l), the last without a ReLU.

    Departs from the paper in PPNet's prior: delta_l = GateNU_l([x; sg(O)]) where the paper has [E(user); E(item);
    E(author); sg(O)]. No user id is served; x is made of the candidate's row and of the history that it attends to.
    """

    def __init__(self, n_scenarios: int, width: int, hidden: Sequence[int], embedding: int) -> None:
        super().__init__()
        sizes = [width, *hidden, 1]
        self.scenario = nn.Embedding(n_scenarios, embedding)
        self.domain_gate = DomainGate(embedding + width, width)
        self.tower_gates = nn.ModuleList(TowerGate(n_scenarios, 2 * width, size) for size in sizes[:-1])
        self.layers = nn.ModuleList(PerScenario(n_scenarios, *pair) for pair in pairwise(sizes))

    def scaled(self, features: Tensor, scenario_index: Tensor) -> Tensor:
        """O (B, C, D): the features as they count in the request's scenario."""
        scenario = self.scenario(scenario_index)[:, None].expand(-1, features.shape[1], -1)
        # sg, stop-gradient: a gate learns from what it reads and does not shape it.
        return features * self.domain_gate(torch.cat([scenario, features.detach()], dim=-1))

    def forward(self, features: Tensor, scenario_index: Tensor, filled: Tensor) -> Tensor:
        x = self.scaled(features, scenario_index)
        prior = torch.cat([features, x.detach()], dim=-1)  # (B, C, 2 D)
        for place, (layer, gate) in enumerate(zip(self.layers, self.tower_gates, strict=True)):
            x = F.relu(x) if place else x
            x = layer(x * gate(prior, scenario_index), scenario_index)
        return x[..., 0]


class DomainGate(nn.Module):
    """GateNU: GAMMA sigmoid(W_2 relu(W_1 v + b_1) + b_2), (B, C, d_in) -> (B, C, d_out)."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(d_in, d_out), nn.Linear(d_out, d_out)

    def forward(self, v: Tensor) -> Tensor:
        return GAMMA * torch.sigmoid(self.out(F.relu(self.hidden(v))))


class TowerGate(nn.Module):
    """GateNU of one layer of all towers: W_1 and b_1 are shared, W_2 and b_2 of each scenario's own."""

    def __init__(self, n_scenarios: int, d_in: int, d_out: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(d_in, d_out), PerScenario(n_scenarios, d_out, d_out)

    def forward(self, v: Tensor, scenario_index: Tensor) -> Tensor:
        return GAMMA * torch.sigmoid(self.out(F.relu(self.hidden(v)), scenario_index))
