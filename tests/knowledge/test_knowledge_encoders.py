from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from knowledge_fakes import RecordingEncoder

from models.errors import KnowledgeError
from models.knowledge.encoders import Encoded, HashEncoder, Report, encode_unique


def test_the_hash_encoder_finds_shared_words_and_says_it_is_for_tests() -> None:
    encoder = HashEncoder()
    encoded = encoder.encode(["red lamp", "Lamp, RED!", "red chair", "oak table", ""])
    cosine = encoded.vectors @ encoded.vectors.T
    assert cosine[0, 1] == pytest.approx(1.0)
    assert cosine[0, 2] > cosine[0, 3] + 0.25
    assert not encoded.vectors[4].any()
    assert encoded.vectors.dtype == np.float32
    assert encoded.n_tokens == 8
    assert encoder.test_only


def test_equal_texts_are_encoded_once_and_empty_ones_never() -> None:
    encoder = RecordingEncoder()
    encoded = encode_unique(encoder, ["a lamp", "", "a chair", "a lamp"])
    assert encoder.calls == [["a lamp", "a chair"]]
    np.testing.assert_array_equal(encoded.vectors[0], encoded.vectors[3])
    assert not encoded.vectors[1].any()
    np.testing.assert_array_equal(encoded.vectors[2], HashEncoder().encode(["a chair"]).vectors[0])


class _Broken(HashEncoder):
    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = vectors

    def encode(self, texts: Sequence[str], report: Report | None = None) -> Encoded:
        return Encoded(self._vectors, n_tokens=0, n_cut=0)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((1, 3), np.float32), r"gave vectors \(1, 3\) for 1 texts, expected \(1, 64\)"),
        (np.full((1, 64), np.nan, np.float32), "not finite or beyond float16"),
        (np.full((1, 64), 70000, np.float32), "not finite or beyond float16"),
    ],
)
def test_vectors_that_cannot_be_stored_are_refused(vectors: np.ndarray, message: str) -> None:
    with pytest.raises(KnowledgeError, match=message):
        encode_unique(_Broken(vectors), ["text"])
