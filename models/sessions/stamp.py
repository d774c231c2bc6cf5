"""STAMP (KDD 2018, doi 10.1145/3219819.3219950): attention that the newest and the mean click ask; no order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.config import SessionEncoderConfig
from models.layers import left_padding_mask


class STAMPEncoder(nn.Module):
    """local: tanh of the newest click; global: tanh of the attended clicks, whose weights are not normalised.

    B batch, L length, D hidden_size. The paper puts a sigmoid around each score before its softmax; as elsewhere here
    the scores go to the softmax as they are. It ranks alike.
    """

    def __init__(self, config: SessionEncoderConfig) -> None:
        super().__init__()
        width = self.hidden_size = config.hidden_size
        self.of_click = nn.Linear(width, width, bias=False)
        self.of_newest = nn.Linear(width, width, bias=False)
        self.of_mean = nn.Linear(width, width)
        self.weigh = nn.Linear(width, 1, bias=False)
        self.to_local = nn.Linear(width, width)
        self.to_global = nn.Linear(width, width)

    def forward(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> tuple[Tensor, Tensor]:
        mask = left_padding_mask(seq_len, item_seq.shape[1])[..., None]
        clicks = torch.where(mask, vectors, 0.0)
        newest, mean = clicks[:, -1], clicks.sum(1) / seq_len.clamp(min=1)[:, None]
        asked = (self.of_newest(newest) + self.of_mean(mean))[:, None]
        weights = self.weigh(torch.sigmoid(self.of_click(clicks) + asked))  # (B, L, 1)
        return torch.tanh(self.to_local(newest)), torch.tanh(self.to_global((weights * clicks).sum(1)))


class ProductReadout(nn.Module):
    """local * global: with an item's row it makes STAMP's trilinear product."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, local_view: Tensor, global_view: Tensor) -> Tensor:
        return local_view * global_view
