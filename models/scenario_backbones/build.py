"""The backbone that a run's configuration names."""

from __future__ import annotations

from models.config import LLM4MSRConfig
from models.scenario_backbones.aitm import AITM
from models.scenario_backbones.mmoe import MMoE
from models.scenario_backbones.parts import Backbone
from models.scenario_backbones.pepnet import PEPNet
from models.scenario_backbones.ple import PLE
from models.scenario_backbones.shared_bottom import SharedBottom
from models.scenario_backbones.star import STAR


def build_scenario_backbone(config: LLM4MSRConfig, n_scenarios: int) -> Backbone:
    """Freshly initialised, by the configuration's sizes."""
    width, expert, tower = config.width, config.expert_size, config.tower_size
    if config.backbone == "shared-bottom":
        return SharedBottom(n_scenarios, width, config.hidden_sizes[0], tower)
    if config.backbone == "mmoe":
        return MMoE(n_scenarios, width, config.n_experts, expert, tower)
    if config.backbone == "ple":
        return PLE(n_scenarios, width, config.n_levels, config.n_specific, config.n_shared, expert, tower)
    if config.backbone == "aitm":
        return AITM(n_scenarios, width, expert, tower)
    if config.backbone == "pepnet":
        return PEPNet(n_scenarios, width, config.hidden_sizes, config.embedding_size)
    return STAR(n_scenarios, width, config.hidden_sizes, config.tower_size)
