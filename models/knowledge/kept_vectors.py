"""An encoder that answers from vectors somebody already has, and opens the real one for other texts only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.knowledge.encoders import Encoded, Report, TextEncoder


class KeptVectors:
    """A TextEncoder equal to the one that made `kept`, without encoding those texts again.

    Args:
        recorded: the `encoder` block of the knowledge.json the vectors come from.
        kept: vector float32 (dim,) by text.
        open_encoder: gives that encoder; called once, at the first text that is not kept.
    """

    test_only: bool

    def __init__(
        self,
        recorded: Mapping[str, Any],
        test_only: bool,
        kept: Mapping[str, NDArray[np.float32]],
        open_encoder: Callable[[], TextEncoder],
    ) -> None:
        self.name, self.digest, self.dim = str(recorded["name"]), str(recorded["digest"]), int(recorded["dim"])
        self.test_only = test_only
        self._kept = kept
        self._open = open_encoder

    def encode(self, texts: Sequence[str], report: Report | None = None) -> Encoded:
        """Vectors float32 (texts, dim); the tokens are those of the texts that had to be encoded."""
        others = [text for text in texts if text not in self._kept]
        encoded = self._open().encode(others, report) if others else None
        found = dict(zip(others, encoded.vectors, strict=True)) if encoded else {}
        rows = [found[text] if text in found else self._kept[text] for text in texts]
        vectors = np.stack(rows).astype(np.float32) if rows else np.zeros((0, self.dim), np.float32)
        if encoded is None:
            return Encoded(vectors, n_tokens=0, n_cut=0)
        return Encoded(vectors, n_tokens=encoded.n_tokens, n_cut=encoded.n_cut)
