"""What a model asks of its sequence encoder. B batch, L length, D width; rows are left-padded."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Backbone(Protocol):
    """A torch module; in clean mode a state depends on the real items it may see and never on padding."""

    def prepare(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Item vectors (B, L, D) as this encoder wants its inputs: scaled, with positions, as it may be."""
        ...

    def cross_bias(self, mask: Tensor) -> Tensor:
        """What cross attention before this encoder adds to its scores: no position may see more than here."""
        ...

    def __call__(self, x: Tensor, mask: Tensor, *, last_only: bool = False) -> Tensor:
        """States (B, L, D) of prepared inputs, or only those of the last position (B, 1, D)."""
        ...
