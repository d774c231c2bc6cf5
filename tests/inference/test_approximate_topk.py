"""What an approximate backend still promises: true scores, the rules, and a recall that was measured."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import SettingsError
from service.inference.loader import load
from service.inference.topk import ExactTopK
from service.inference.topk.approximate import ApproximateTopK

NOTHING = np.empty(0, np.int64)


@pytest.fixture(scope="module")
def catalogue() -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
    """6,000 items around 60 centres, and queries near them."""
    rng = np.random.default_rng(31)
    centres = rng.standard_normal((60, 16)) * 3
    items = (centres[rng.integers(0, 60, 6_001)] + rng.standard_normal((6_001, 16))).astype(np.float32)
    queries = (centres[rng.integers(0, 60, 40)] + rng.standard_normal((40, 16))).astype(np.float32)[:, None]
    available = np.ones(6_001, np.bool_)
    available[0] = False
    return items, available, queries


def test_recall_is_measured_and_the_scores_found_are_exact(
    catalogue: tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]],
) -> None:
    items, available, queries = catalogue
    exact = ExactTopK(items, available)
    rough = ApproximateTopK(items, available, exact, queries)
    truth, found = (topk.search(queries, 20, [NOTHING] * 40) for topk in (exact, rough))
    hits = sum(len(set(a.tolist()) & set(b.tolist())) for (a, _), (b, _) in zip(truth, found, strict=True))
    assert rough.recall == hits / 800
    assert rough.recall >= 0.95
    assert rough.probes < 60
    for (ids, scores), query in zip(found, queries[:, 0], strict=True):
        assert scores == pytest.approx(items[ids] @ query, rel=1e-5)
        assert (np.diff(scores) <= 0).all()


def test_hidden_items_never_appear_and_lists_stay_full(
    catalogue: tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]],
) -> None:
    items, available, queries = catalogue
    available = available.copy()
    exact = ExactTopK(items, available)
    rough = ApproximateTopK(items, available, exact, queries)
    best = exact.search(queries[:1], 500, [NOTHING])[0][0]
    available[best[:100]] = False
    ((ids, _),) = rough.search(queries[:1], 20, [best[100:]])
    assert len(ids) == 20
    assert not set(ids.tolist()) & set(best.tolist())
    before = rough.fallbacks
    everything_but_three = np.setdiff1d(np.arange(1, 6_001), [5, 6, 7])
    available[[5, 6, 7]] = True
    ((ids, _),) = rough.search(queries[:1], 20, [everything_but_three])
    assert sorted(ids.tolist()) == [5, 6, 7]
    assert rough.fallbacks == before + 1
    assert len(rough.search(np.full((1, 1, 16), np.nan, np.float32), 20, [NOTHING])[0][0]) == 0


def test_a_model_served_approximately_says_how_well(artefact_path: Path) -> None:
    loaded = load(artefact_path, intra_op_threads=1, device="cpu", top_k="approximate")
    assert loaded.backend == "approximate"
    assert loaded.recall is not None
    assert 0.95 <= loaded.recall <= 1


def test_without_faiss_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    items = np.ones((3, 2), np.float32)
    mask = np.ones(3, np.bool_)
    with pytest.raises(SettingsError, match=r"pip install 'afterglow\[ann\]'"):
        ApproximateTopK(items, mask, ExactTopK(items, mask), np.ones((1, 1, 2), np.float32))
