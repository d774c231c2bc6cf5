"""The encoder that a model's configuration names."""

from __future__ import annotations

from models.backbones.gru import GRUEncoder
from models.backbones.transformer import TransformerEncoder
from models.config import LLMESRConfig


def build_backbone(config: LLMESRConfig) -> TransformerEncoder | GRUEncoder:
    """A fresh one; each keeps `models.backbones.interface.Backbone`."""
    if config.backbone == "gru4rec":
        return GRUEncoder(config)
    if config.backbone == "bert4rec":
        # It looks both ways; one position more than a history has, for the mask token after it.
        return TransformerEncoder(config, causal=False, n_positions=config.max_seq_len + 1)
    return TransformerEncoder(config, causal=True, n_positions=config.max_seq_len)
