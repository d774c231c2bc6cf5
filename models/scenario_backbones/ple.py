"""PLE: experts of each scenario's own beside shared ones, level upon level (sheet of LLM4MSR, 11.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.scenario_backbones.parts import Backbone, Experts, PerScenario, Tower, mix, of_scenario, stacked_weights


class PLE(Backbone):
    """Progressive layered extraction; with one level it is CGC.

    Below the last level every scenario's stream is computed, for the shared stream mixes the experts of all of them;
    on the last level that of the request's scenario alone, and no shared one.
    """

    def __init__(
        self, n_scenarios: int, width: int, n_levels: int, n_specific: int, n_shared: int, expert: int, tower: int
    ) -> None:
        super().__init__()
        sizes = [width] + [expert] * (n_levels - 1)
        self.lower = nn.ModuleList(_Level(n_scenarios, size, n_specific, n_shared, expert) for size in sizes[:-1])
        last = sizes[-1]
        self.n_specific = n_specific
        self.own = PerScenario(n_scenarios, last, n_specific * expert)
        self.shared = Experts(n_shared, last, expert)
        self.gates = PerScenario(n_scenarios, last, n_specific + n_shared, bias=False)
        self.tower = Tower(n_scenarios, expert, tower)

    def mixed(self, features: Tensor, scenario_index: Tensor) -> Tensor:
        """(B, C, expert): what the tower of the request's scenario reads."""
        own = shared = features
        if len(self.lower):
            streams, shared = features[:, :, None].expand(-1, -1, self.gates.weight.shape[0], -1), features
            for level in self.lower:
                streams, shared = level(streams, shared)
            own = of_scenario(streams, scenario_index)
        specific = F.relu(self.own(own, scenario_index)).unflatten(-1, (self.n_specific, -1))
        return mix(torch.cat([specific, self.shared(shared)], dim=2), self.gates(own, scenario_index))

    def forward(self, features: Tensor, scenario_index: Tensor, filled: Tensor) -> Tensor:
        found: Tensor = self.tower(self.mixed(features, scenario_index), scenario_index)
        return found


class _Level(nn.Module):
    """streams (B, C, S, d_in), shared (B, C, d_in) -> the same of width `expert`."""

    def __init__(self, n_scenarios: int, d_in: int, n_specific: int, n_shared: int, expert: int) -> None:
        super().__init__()
        self.n_specific = n_specific
        self.specific_weight = stacked_weights(n_scenarios, d_in, n_specific * expert)
        self.specific_bias = nn.Parameter(torch.zeros(n_scenarios, n_specific * expert))
        self.shared = Experts(n_shared, d_in, expert)
        self.gate_weight = stacked_weights(n_scenarios, d_in, n_specific + n_shared)
        self.shared_gate = nn.Linear(d_in, n_scenarios * n_specific + n_shared, bias=False)

    def forward(self, streams: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
        specific = F.relu(_each(streams, self.specific_weight) + self.specific_bias)
        specific = specific.unflatten(-1, (self.n_specific, -1))  # (B, C, S, n_specific, expert)
        common = self.shared(shared)  # (B, C, n_shared, expert)
        beside = common[:, :, None].expand(-1, -1, specific.shape[2], -1, -1)
        mixed = mix(torch.cat([specific, beside], dim=3), _each(streams, self.gate_weight))
        return mixed, mix(torch.cat([specific.flatten(2, 3), common], dim=2), self.shared_gate(shared))


def _each(streams: Tensor, weight: Tensor) -> Tensor:
    """(B, C, S, d_out): the stream of each scenario (B, C, S, d_in) times its own matrix of (S, d_in, d_out)."""
    return (streams[..., None, :] @ weight)[..., 0, :]
