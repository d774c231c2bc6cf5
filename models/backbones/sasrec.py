"""SASRec's encoder as LLM-ESR uses it (arXiv:1808.09781; LLM-ESR sheet, section 6)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.layers import MASKED, MultiHeadAttention, attention_bias


class SASRecEncoder(nn.Module):
    """States (B, L, D) of left-padded input vectors (B, L, D).

    In clean mode attention is causal and never sees padding, so the state of a position depends on the real items up
    to it and nothing else. In reference mode there is no mask at all, as in the published code: a position sees its
    own future, and the output depends on the padded length.
    """

    def __init__(self, width: int, max_seq_len: int, n_blocks: int, n_heads: int, dropout: float, clean: bool) -> None:
        super().__init__()
        self.clean = clean
        self.positions = nn.Embedding(max_seq_len + 1, width)  # row 0 belongs to padding
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(width, n_heads, dropout) for _ in range(n_blocks))
        self.norm = nn.LayerNorm(width, eps=1e-8)

    def prepare(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Scaled vectors plus positions: 1 for the oldest kept item, n for the newest, 0 on padding."""
        position_ids = mask.long().cumsum(1) * mask
        return self.dropout(vectors * math.sqrt(vectors.shape[-1]) + self.positions(position_ids))

    def bias(self, mask: Tensor) -> Tensor:
        """What attention inside and before this encoder adds to its scores."""
        if self.clean:
            return attention_bias(mask, causal=True)
        return torch.zeros((), device=mask.device)

    def cross_bias(self, mask: Tensor) -> Tensor:
        """As `bias`; the published cross attention masks padding keys even where its encoder does not."""
        if self.clean:
            return self.bias(mask)
        return torch.where(mask, 0.0, MASKED)[:, None, None, :]

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        keep = mask[..., None].to(x.dtype)
        bias = self.bias(mask)
        x = x * keep
        for block in self.blocks:
            x = block(x, keep, bias)
        return self.norm(x)


class _Block(nn.Module):
    """The published block: the norm is on the query alone, and residuals start from the normalised value."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=1e-8)
        self.attention = MultiHeadAttention(width, n_heads, input_bias=True, dropout=dropout)
        self.feed_norm = nn.LayerNorm(width, eps=1e-8)
        self.feed = nn.Sequential(
            nn.Linear(width, width), nn.Dropout(dropout), nn.ReLU(), nn.Linear(width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor, keep: Tensor, bias: Tensor) -> Tensor:
        query = self.attention_norm(x)
        y = self.feed_norm(query + self.attention(query, x, bias))
        return (y + self.feed(y)) * keep
