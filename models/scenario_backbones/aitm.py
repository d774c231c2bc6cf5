"""AITM (KDD 2021): each scenario hears from the one before it, by attention (sheet of LLM4MSR, 11.5)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.scenario_backbones.parts import Backbone, Experts, Tower, of_scenario


class AITM(Backbone):
    """q_s = bottom_s(x); z_0 = q_0, z_s = attention over p_s = told_s(z_{s-1}) and q_s; y_s = tower_s(z_s).

    The order is that of the scenarios' rows. A request's z is the end of a chain, so all of it is computed and its own
    link picked: S - 1 attentions over two vectors of `size`. Departs from the paper in having no calibrator: that y_s
    is at most y_{s-1} holds from click to purchase and means nothing from one scenario to another.
    """

    def __init__(self, n_scenarios: int, width: int, size: int, tower: int) -> None:
        super().__init__()
        self.bottoms = Experts(n_scenarios, width, size)
        self.told = nn.ModuleList(nn.Linear(size, size) for _ in range(n_scenarios - 1))
        self.transfer = Transfer(size)
        self.tower = Tower(n_scenarios, size, tower)

    def links(self, features: Tensor) -> Tensor:
        """(B, C, S, size): what the tower of every scenario would read."""
        first, *rest = self.bottoms(features).unbind(2)
        found = [first]
        for told, own in zip(self.told, rest, strict=True):
            found.append(self.transfer(torch.stack([F.relu(told(found[-1])), own], dim=2)))
        return torch.stack(found, dim=2)

    def forward(self, features: Tensor, scenario_index: Tensor, filled: Tensor) -> Tensor:
        found: Tensor = self.tower(of_scenario(self.links(features), scenario_index), scenario_index)
        return found


class Transfer(nn.Module):
    """(B, C, size) of u (B, C, 2, size): sum_u w_u h3(u), with w_u the softmax of <h1(u), h2(u)> / sqrt(size)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.h1, self.h2, self.h3 = (nn.Linear(size, size, bias=False) for _ in range(3))

    def weights(self, u: Tensor) -> Tensor:
        """(B, C, 2), which sum to one."""
        return ((self.h1(u) * self.h2(u)).sum(-1) * u.shape[-1] ** -0.5).softmax(-1)

    def forward(self, u: Tensor) -> Tensor:
        return (self.weights(u)[..., None] * self.h3(u)).sum(2)
