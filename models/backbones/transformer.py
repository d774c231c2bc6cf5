"""The encoder of SASRec (arXiv:1808.09781) and BERT4Rec (arXiv:1904.06690) as LLM-ESR uses it (sheet, section 6)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.backbones.blocks import BLOCKS
from models.config import LLMESRConfig
from models.layers import MASKED, Dropout, attention_bias


class TransformerEncoder(nn.Module):
    """States (B, L, D) of left-padded input vectors (B, L, D).

    In clean mode attention never sees padding and, where `causal`, no later position, so the state of a position
    depends on real items and nothing else. In reference mode there is no mask at all, as in the published code: a
    position sees its own future, and the output depends on the padded length.
    """

    def __init__(self, config: LLMESRConfig, *, causal: bool, n_positions: int) -> None:
        super().__init__()
        self.clean, self.causal = config.mode == "clean", causal
        width = config.hidden_size
        self.positions = nn.Embedding(n_positions + 1, width)  # row 0 belongs to padding
        self.dropout = Dropout(config.dropout)
        block = BLOCKS[config.block]
        self.blocks = nn.ModuleList(block(width, config.n_heads, config.dropout) for _ in range(config.n_blocks))
        self.norm = nn.LayerNorm(width, eps=1e-8)

    def prepare(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Scaled vectors plus positions: 1 for the oldest kept item, n for the newest, 0 on padding."""
        position_ids = mask.long().cumsum(1) * mask
        return self.dropout(vectors * math.sqrt(vectors.shape[-1]) + self.positions(position_ids))

    def bias(self, mask: Tensor) -> Tensor:
        """What attention inside this encoder adds to its scores."""
        if self.clean:
            return attention_bias(mask, causal=self.causal)
        return torch.zeros((), device=mask.device)

    def cross_bias(self, mask: Tensor) -> Tensor:
        """As `bias`; the published cross attention masks padding keys even where its encoder does not."""
        if self.clean:
            return self.bias(mask)
        return torch.where(mask, 0.0, MASKED)[:, None, None, :]

    def forward(self, x: Tensor, mask: Tensor, *, last_only: bool = False) -> Tensor:
        keep = mask[..., None].to(x.dtype)
        bias = self.bias(mask)
        x = x * keep
        last = len(self.blocks) - 1
        for at, block in enumerate(self.blocks):
            x = block(x, keep, bias, last_only and at == last)  # the others' keys and values are still needed
        states: Tensor = self.norm(x)
        return states
