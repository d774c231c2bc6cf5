"""MMoE: experts for all scenarios, mixed by a gate of each scenario's own (sheet of LLM4MSR, 11.2)."""

from __future__ import annotations

from torch import Tensor

from models.scenario_backbones.parts import Backbone, Experts, PerScenario, Tower, mix


class MMoE(Backbone):
    """y_s = tower_s(sum_j softmax(G_s x)_j expert_j(x))."""

    def __init__(self, n_scenarios: int, width: int, n_experts: int, expert: int, tower: int) -> None:
        super().__init__()
        self.experts = Experts(n_experts, width, expert)
        self.gates = PerScenario(n_scenarios, width, n_experts, bias=False)
        self.tower = Tower(n_scenarios, expert, tower)

    def mixed(self, features: Tensor, scenario_index: Tensor) -> Tensor:
        """(B, C, expert): what the tower of the request's scenario reads."""
        return mix(self.experts(features), self.gates(features, scenario_index))

    def forward(self, features: Tensor, scenario_index: Tensor, filled: Tensor) -> Tensor:
        found: Tensor = self.tower(self.mixed(features, scenario_index), scenario_index)
        return found
