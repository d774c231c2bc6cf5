"""Who turns a sentence into a vector: the interface, and the encoder that exists for fast tests.

An encoder that asks a language model implements the same interface; nothing else here knows which one it has.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from models.errors import KnowledgeError

Report = Callable[[int, int], None]  # (tokens done, tokens in all), called as the work goes on


@dataclass(frozen=True, eq=False)
class Encoded:
    """Vectors of some texts, and what reading them took."""

    vectors: NDArray[np.float32]  # (texts, dim)
    n_tokens: int  # tokens read, after the cut
    n_cut: int  # texts longer than the encoder reads


class TextEncoder(Protocol):
    """Makes one vector per text. Equal `digest` means equal vectors for equal texts (up to rounding)."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def test_only(self) -> bool: ...

    def encode(self, texts: Sequence[str], report: Report | None = None) -> Encoded:
        """Vectors float32 (texts, dim) in the order of `texts`."""
        ...


class HashEncoder:
    """A bag of hashed words: equal words make near vectors and nothing else does. For fast tests only.

    Each word is the 64 bytes of its BLAKE2b hash, centred; a text is their normalised sum.
    """

    name: Final = "hash"
    digest: Final = hashlib.sha256(
        b"hash encoder 1: blake2b-64 of lower-case words, centred, summed, normalised"
    ).hexdigest()
    dim: Final = 64
    test_only: Final = True

    def encode(self, texts: Sequence[str], report: Report | None = None) -> Encoded:
        """Vectors float32 (texts, 64), unit length; a text without words gives zeros."""
        words = [re.findall(r"\w+", text.lower()) for text in texts]
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        table: dict[str, NDArray[np.float32]] = {}
        for row, found in enumerate(words):
            for word in found:
                if word not in table:
                    data = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=self.dim).digest()
                    table[word] = np.frombuffer(data, dtype=np.uint8).astype(np.float32) - 127.5
                vectors[row] += table[word]
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
        return Encoded(unit, n_tokens=sum(map(len, words)), n_cut=0)


def encode_unique(encoder: TextEncoder, texts: Sequence[str], report: Report | None = None) -> Encoded:
    """Vectors of `texts`, each different text encoded once; an empty text gives zeros and is never sent.

    Raises:
        KnowledgeError: the encoder gave another shape than it promises, or a value that float16 cannot hold.
    """
    place = {text: row for row, text in enumerate(dict.fromkeys(text for text in texts if text))}
    encoded = encoder.encode(list(place), report)
    if encoded.vectors.shape != (len(place), encoder.dim):
        raise KnowledgeError(
            f"encoder '{encoder.name}': gave vectors {encoded.vectors.shape} for {len(place)} texts, "
            f"expected {(len(place), encoder.dim)}"
        )
    if not (np.abs(encoded.vectors) <= np.finfo(np.float16).max).all():
        raise KnowledgeError(f"encoder '{encoder.name}': gave a value that is not finite or beyond float16")
    vectors = np.zeros((len(texts), encoder.dim), dtype=np.float32)
    filled = [row for row, text in enumerate(texts) if text]
    vectors[filled] = encoded.vectors[[place[texts[row]] for row in filled]]
    return Encoded(vectors, n_tokens=encoded.n_tokens, n_cut=encoded.n_cut)
