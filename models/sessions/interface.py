"""What a session retriever is made of: an encoder with two views of a session, and a readout of these two.

B batch, L length, D hidden_size. Rows of item_seq are left-padded with 0.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class SessionEncoder(Protocol):
    """A torch module; its views depend on the real items of a session and never on padding or on other sessions."""

    hidden_size: int

    def __call__(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> tuple[Tensor, Tensor]:
        """(local (B, D), global (B, D)): what the session is about now, and what it is about as a whole.

        Args:
            vectors: float32 (B, L, D), the item table's rows of `item_seq`.
            item_seq: int64 (B, L).
            seq_len: int64 (B,), 0 of an empty session: its views are finite, and mean nothing.
        """
        ...


class Readout(Protocol):
    """A torch module that makes one query of the two views, as the encoder's paper does."""

    def __call__(self, local_view: Tensor, global_view: Tensor) -> Tensor:
        """float32 (B, D), to be compared with rows of the item table by dot product."""
        ...
