"""Rows for items that have a text alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from models.config import LLMESRConfig
from models.errors import RunError
from models.llm_esr import LLMESR
from models.new_item_rows import fit_collaborative_map, fit_new_item_rows

N, LLM_DIM, WIDTH = 60, 6, 4


def vectors_of(n: int = N, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, LLM_DIM)).astype(np.float32)


def model_of(**changes: object) -> LLMESR:
    torch.manual_seed(0)
    settings = {"hidden_size": WIDTH, "max_seq_len": 5, "n_blocks": 1, "collaborative_init": "random"}
    settings |= {"distillation_weight": 0.0, **changes}
    knowledge = SimpleNamespace(item_vectors=np.concatenate([np.zeros((1, LLM_DIM)), vectors_of()]).astype(np.float32))
    return LLMESR(LLMESRConfig.model_validate(settings), N, knowledge).eval()  # type: ignore[arg-type]


def test_rows_that_a_text_decides_are_found_again() -> None:
    truth = np.random.default_rng(2).standard_normal((LLM_DIM, WIDTH))
    rows = vectors_of() @ truth + 0.5
    fitted = fit_collaborative_map(vectors_of(), rows.astype(np.float32), np.full(N, 3))
    new = vectors_of(5, seed=9)
    np.testing.assert_allclose(fitted(new), new @ truth + 0.5, rtol=0.01, atol=0.01)
    assert fitted.explained > 0.999
    assert fitted.factor == pytest.approx(1, abs=0.01)
    assert fitted.penalty == 1e-4


def test_an_item_counts_as_often_as_it_was_chosen() -> None:
    """Every text stands twice: 99 interactions taught the row (1, 0), one taught (0, 1). The mean is (.99, .01)."""
    vectors = np.concatenate([vectors_of(20), vectors_of(20)])
    rows = np.concatenate([np.tile([1.0, 0.0], (20, 1)), np.tile([0.0, 1.0], (20, 1))]).astype(np.float32)
    popularity = np.array([99] * 20 + [1] * 20)
    mapped = fit_collaborative_map(vectors, rows, popularity)
    direction = mapped(vectors_of(1, seed=5))[0]
    assert direction[0] / np.linalg.norm(direction) > 0.98


def test_new_rows_are_as_long_as_trained_ones_on_average() -> None:
    rng = np.random.default_rng(3)
    many = vectors_of(400)
    rows = (many @ rng.standard_normal((LLM_DIM, WIDTH)) + 3 * rng.standard_normal((400, WIDTH))).astype(np.float32)
    fitted = fit_collaborative_map(many, rows, np.ones(400, np.int64))
    assert fitted.factor > 1.2  # half of the rows is noise, so what is predicted is shorter
    lengths = np.linalg.norm(fitted(vectors_of(2000, seed=4)), axis=1)
    assert lengths.mean() == pytest.approx(np.linalg.norm(rows, axis=1).mean(), rel=0.05)


def test_texts_that_say_nothing_leave_rows_short() -> None:
    rows = np.random.default_rng(5).standard_normal((N, WIDTH)).astype(np.float32)
    fitted = fit_collaborative_map(vectors_of(), rows, np.ones(N, np.int64))
    assert fitted.explained < 0
    assert fitted.factor == 1
    assert np.linalg.norm(fitted(vectors_of(50, seed=6)), axis=1).mean() < 0.7 * np.linalg.norm(rows, axis=1).mean()


def test_the_halves_stand_in_the_order_of_the_item_table() -> None:
    model = model_of()
    with torch.no_grad():  # rows the text decides, so that both halves of a known text can be told beforehand
        model.item_embeddings[1:] = model.llm_item_embeddings[1:] @ torch.randn(LLM_DIM, WIDTH)
    popularity = np.r_[0, np.full(N, 2)]
    rows = fit_new_item_rows(model, popularity)(model.llm_item_embeddings[1:].numpy())
    expected = model.item_table().detach().numpy()[1:]
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected, rtol=0.02, atol=0.02)


def test_items_nobody_chose_in_training_are_not_learnt_from() -> None:
    model = model_of()
    with torch.no_grad():
        model.item_embeddings[1:] = model.llm_item_embeddings[1:] @ torch.randn(LLM_DIM, WIDTH)
        model.item_embeddings[1:21] = 1000.0
    popularity = np.r_[0, np.zeros(20, np.int64), np.full(N - 20, 2)]
    placed = fit_new_item_rows(model, popularity)
    assert placed.collaborative is not None
    assert placed.collaborative.n_items == N - 20
    assert np.abs(placed(vectors_of())).max() < 100


def test_a_model_with_the_semantic_view_alone_needs_no_map() -> None:
    model = model_of(views=("semantic",))
    placed = fit_new_item_rows(model, np.r_[0, np.full(N, 2)])
    assert placed.collaborative is None
    expected = model.item_table().detach().numpy()[1:]
    np.testing.assert_allclose(placed(vectors_of()), expected, rtol=1e-4, atol=1e-5)


def test_a_model_of_ids_alone_has_no_place_for_a_text() -> None:
    with pytest.raises(RunError, match="by their id alone"):
        fit_new_item_rows(model_of(views=("collaborative",)), np.r_[0, np.full(N, 2)])


def test_too_few_trained_items_are_refused() -> None:
    with pytest.raises(RunError, match="4 items have training interactions, expected at least 5"):
        fit_new_item_rows(model_of(), np.r_[0, np.full(4, 1), np.zeros(N - 4, np.int64)])
