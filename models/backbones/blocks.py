"""Transformer blocks, one interface: (x (B, L, D), keep (B, L, 1), bias, last_only) -> (B, L or 1, D)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import Dropout, MultiHeadAttention


class PublishedBlock(nn.Module):
    """SASRec's block: the norm is on the query alone, and residuals start from the normalised value."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=1e-8)
        self.attention = MultiHeadAttention(width, n_heads, input_bias=True, dropout=dropout)
        self.feed_norm = nn.LayerNorm(width, eps=1e-8)
        self.feed = nn.Sequential(
            nn.Linear(width, width), Dropout(dropout), nn.ReLU(), nn.Linear(width, width), Dropout(dropout)
        )

    def forward(self, x: Tensor, keep: Tensor, bias: Tensor, last_only: bool) -> Tensor:
        asking, keep, bias = _asking(x, keep, bias, last_only)
        query = self.attention_norm(asking)
        y = self.feed_norm(query + self.attention(query, x, bias))
        return (y + self.feed(y)) * keep


class PreNormBlock(nn.Module):
    """The usual pre-norm block: queries, keys and values are normalised, residuals are not; GELU, four times wide."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, n_heads, input_bias=True, dropout=dropout)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), Dropout(dropout), nn.Linear(4 * width, width))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, keep: Tensor, bias: Tensor, last_only: bool) -> Tensor:
        asking, keep, bias = _asking(x, keep, bias, last_only)
        memory = self.attention_norm(x)
        query = memory[:, -1:] if last_only else memory
        y = asking + self.dropout(self.attention(query, memory, bias))
        return (y + self.dropout(self.feed(self.feed_norm(y)))) * keep


class LiGRBlock(nn.Module):
    """Pre-norm block with learnt gates on its residuals and a SwiGLU feed-forward (LiGR, arXiv:2502.03417).

    x + sigmoid(G x) * sublayer(norm x), for attention and for the feed-forward.
    """

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, n_heads, input_bias=True, dropout=dropout)
        self.attention_gate = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, 8 * width)  # both halves of SwiGLU in one product
        self.feed_out = nn.Linear(4 * width, width)
        self.feed_gate = nn.Linear(width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, keep: Tensor, bias: Tensor, last_only: bool) -> Tensor:
        asking, keep, bias = _asking(x, keep, bias, last_only)
        memory = self.attention_norm(x)
        query = memory[:, -1:] if last_only else memory
        y = asking + torch.sigmoid(self.attention_gate(asking)) * self.dropout(self.attention(query, memory, bias))
        gate, value = self.feed_in(self.feed_norm(y)).chunk(2, dim=-1)
        fed = self.feed_out(self.dropout(F.silu(gate) * value))
        return (y + torch.sigmoid(self.feed_gate(y)) * self.dropout(fed)) * keep


def _asking(x: Tensor, keep: Tensor, bias: Tensor, last_only: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The positions whose states are wanted, with their part of `keep` and of the attention bias."""
    if not last_only:
        return x, keep, bias
    return x[:, -1:], keep[:, -1:], bias[..., -1:, :] if bias.dim() else bias


BLOCKS = {"published": PublishedBlock, "pre_norm": PreNormBlock, "ligr": LiGRBlock}
