"""What every retriever model promises to training, evaluation and export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class EncoderInputs:
    """How a model's encoder wants its histories; the manifest's `encoder` block is filled from it."""

    kind: str
    paper: str | None
    padding: Literal["left", "right"]
    mode: Literal["clean", "reference"]
    max_seq_len: int
    fixed_length: int | None
    dim: int
    n_queries: int


@runtime_checkable
class RetrieverModel(Protocol):
    """A model that turns a history into query vectors over one item table.

    B batch, L length, Q n_queries, D dim. score(item) = max over queries of <query, item>.
    """

    def describe_inputs(self) -> EncoderInputs: ...

    def item_table(self) -> Tensor:
        """float32 (n_items + 1, D): everything known of an item folded into one row; row 0 is padding."""
        ...

    def encode_vectors(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> Tensor:
        """float32 queries (B, Q, D) from `item_table()[item_seq]` (B, L, D), item_seq (B, L) and seq_len (B,)."""
        ...
