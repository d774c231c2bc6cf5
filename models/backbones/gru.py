"""GRU4Rec's encoder as LLM-ESR uses it (arXiv:1511.06939; LLM-ESR sheet, section 6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.config import LLMESRConfig
from models.layers import Dropout, attention_bias


class GRUEncoder(nn.Module):
    """States (B, L, D) of left-padded input vectors (B, L, D); `n_blocks` is the number of layers, one as published.

    The GRU has no bias, so a zero input leaves a zero state at zero: in clean mode padding inputs are set to zero and
    the state reaches the first real item untouched, whatever stands to the left of it. In reference mode padding
    moves the state, as in the published code.
    """

    def __init__(self, config: LLMESRConfig) -> None:
        super().__init__()
        self.clean = config.mode == "clean"
        self.dropout = Dropout(config.dropout)
        width = config.hidden_size
        self.gru = nn.GRU(width, width, num_layers=config.n_blocks, bias=False, batch_first=True)

    def prepare(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """The vectors themselves: no scale and no positions."""
        return self.dropout(vectors)

    def cross_bias(self, mask: Tensor) -> Tensor:
        """Causal in clean mode, where every position is trained; padding keys are masked in both."""
        return attention_bias(mask, causal=self.clean)

    def forward(self, x: Tensor, mask: Tensor, *, last_only: bool = False) -> Tensor:
        if self.clean:
            # Not a product: padding of an all-padding row may hold anything finite, and 0 is what is meant.
            x = torch.where(mask[..., None], x, 0.0)
        states: Tensor = self.gru(x)[0]
        return states[:, -1:] if last_only else states
