"""Layers that more than one model uses. B batch, L length, D width."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Added to a masked score. Finite, so that a row with every key masked (all padding) stays a number;
# exp(-1e9) is exactly 0 in float32, so padding changes nothing elsewhere.
MASKED = -1e9


def left_padding_mask(seq_len: Tensor, length: int) -> Tensor:
    """bool (B, L), true on the real items of left-padded rows."""
    columns = torch.arange(length, device=seq_len.device)
    return columns[None, :] >= length - seq_len[:, None]


def attention_bias(mask: Tensor, causal: bool) -> Tensor:
    """float32 (B, 1, L, L) to add to attention scores: `MASKED` on padding keys and, if causal, on later keys."""
    length = mask.shape[1]
    allowed = mask[:, None, None, :]  # (B, 1, 1, L)
    if causal:
        steps = torch.arange(length, device=mask.device)
        allowed = allowed & (steps[None, :] <= steps[:, None])  # (B, 1, L, L)
    return torch.where(allowed, 0.0, MASKED)


class Dropout(nn.Dropout):
    """As `nn.Dropout`; on a CPU it draws 16 random bits an element, 64 at a time, where torch draws a float each."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return super().forward(x)
        n = x.numel()
        words = torch.empty((n + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.int16)[:n].view(x.shape) >= round(self.p * 2**16) - 2**15
        return x * (kept.to(x.dtype) * (1 / (1 - self.p)))


class MultiHeadAttention(nn.Module):
    """Attention of `query` (B, Q, D) over `memory` (B, L, D). Hand-written: it exports as plain MatMul and Softmax."""

    def __init__(self, width: int, n_heads: int, *, input_bias: bool, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.to_query = nn.Linear(width, width, bias=input_bias)
        self.to_key = nn.Linear(width, width, bias=input_bias)
        self.to_value = nn.Linear(width, width, bias=input_bias)
        self.to_out = nn.Linear(width, width)
        self.dropout = Dropout(dropout)

    def forward(self, query: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (
            self._split(self.to_query(query)),
            self._split(self.to_key(memory)),
            self._split(self.to_value(memory)),
        )
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias  # (B, H, Q, L)
        mixed = self.dropout(scores.softmax(-1)) @ v  # (B, H, Q, D / H)
        return self.to_out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, H, L, D / H)
