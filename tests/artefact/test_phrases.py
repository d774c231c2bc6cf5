from __future__ import annotations

from pathlib import Path

import numpy as np

from service.artefact.manifest import PhrasesSpec
from service.artefact.phrases import InterestPhrases, read_phrases, write_phrases

ONE = PhrasesSpec(n_phrases=1, similarity_floor=0.4)
SPEC = PhrasesSpec(n_phrases=2, similarity_floor=0.4)


def test_phrases_come_back_as_they_were_written(tmp_path: Path) -> None:
    vectors = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32)
    assert write_phrases(tmp_path, InterestPhrases(["soft light", "Öle für Bärte"], vectors, 0.4)) == SPEC
    phrases, faults = read_phrases(tmp_path, SPEC, 3)
    assert faults == []
    assert phrases is not None
    assert phrases.similarity_floor == 0.4
    assert phrases.texts == ["soft light", "Öle für Bärte"]
    np.testing.assert_array_equal(phrases.vectors, vectors)


def test_every_fault_is_named(tmp_path: Path) -> None:
    write_phrases(tmp_path, InterestPhrases(["one"], np.full((1, 3), np.nan, dtype=np.float32), 0.4))
    assert read_phrases(tmp_path, SPEC, 3)[1] == [
        "interest_phrases.npy: shape is [1, 3], the manifest says [2, 3]",
        "interest_phrases.json: holds 1 texts, the manifest says 2",
    ]
    assert read_phrases(tmp_path, ONE, 3)[1] == ["interest_phrases.npy: row 0 holds NaN or infinity"]
    (tmp_path / SPEC.texts).write_text("{")
    assert "is not JSON" in read_phrases(tmp_path, ONE, 3)[1][-1]
    (tmp_path / SPEC.texts).write_text('["", 3]')
    assert "expected a list of texts" in read_phrases(tmp_path, ONE, 3)[1][-1]
