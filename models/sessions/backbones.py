"""GRU4Rec and SASRec as session encoders: the backbones of `models.backbones`, with two views of their states."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.backbones.build import build_backbone
from models.config import LLMESRConfig, SessionEncoderConfig
from models.layers import left_padding_mask


class BackboneEncoder(nn.Module):
    """local: the last state, which is all that the papers read; global: the mean state."""

    def __init__(self, config: SessionEncoderConfig) -> None:
        super().__init__()
        self.hidden_size = config.hidden_size
        self.backbone = build_backbone(
            LLMESRConfig.model_validate(
                {
                    "backbone": config.encoder,
                    "hidden_size": config.hidden_size,
                    "max_seq_len": config.max_seq_len,
                    "n_blocks": config.n_layers,
                    "n_heads": config.n_heads,
                    "dropout": config.dropout,
                }
            )
        )

    def forward(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> tuple[Tensor, Tensor]:
        mask = left_padding_mask(seq_len, item_seq.shape[1])
        states = self.backbone(self.backbone.prepare(vectors, mask), mask)  # (B, L, D)
        total = torch.where(mask[..., None], states, 0.0).sum(1)
        return states[:, -1], total / seq_len.clamp(min=1)[:, None]
