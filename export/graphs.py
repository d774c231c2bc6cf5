"""The part of a model that is served: the item look-up and the encoder, as one torch module."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.contracts import EncoderInputs


@runtime_checkable
class Exportable(Protocol):
    """What export needs of a model; `models.contracts.RetrieverModel` says what each method gives."""

    def describe_inputs(self) -> EncoderInputs: ...

    def item_table(self) -> Tensor: ...

    def encode_vectors(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> Tensor: ...


class EncoderGraph(nn.Module):
    """item_seq (B, L), seq_len (B,) -> queries (B, n_queries, dim): what `encoder.onnx` computes.

    The folded item table is a buffer called `items`, read by one look-up and by nothing else: its initializer can then
    be items.npy itself.
    """

    items: Tensor

    def __init__(self, model: Exportable) -> None:
        super().__init__()
        self.model = model
        self.inputs = model.describe_inputs()
        with torch.no_grad():
            self.register_buffer("items", model.item_table().detach().float().contiguous())

    def forward(self, item_seq: Tensor, seq_len: Tensor) -> Tensor:
        return self.model.encode_vectors(F.embedding(item_seq, self.items), item_seq, seq_len)
