"""Shared-Bottom: one bottom for all scenarios, a tower for each (sheet of LLM4MSR, 11.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.scenario_backbones.parts import Backbone, Tower


class SharedBottom(Backbone):
    """y_s = tower_s(bottom(x))."""

    def __init__(self, n_scenarios: int, width: int, bottom: int, tower: int) -> None:
        super().__init__()
        self.bottom = nn.Linear(width, bottom)
        self.tower = Tower(n_scenarios, bottom, tower)

    def forward(self, features: Tensor, scenario_index: Tensor, filled: Tensor) -> Tensor:
        found: Tensor = self.tower(F.relu(self.bottom(features)), scenario_index)
        return found
