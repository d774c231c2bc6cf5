from __future__ import annotations

from typing import Any

import pytest
import torch

from models import runs
from models.contracts import RetrieverModel
from models.llm_esr import LLMESR

PLAIN = {"views": ["collaborative"], "collaborative_init": "random", "distillation_weight": 0.0}
CLEAN: dict[str, dict[str, Any]] = {
    "llm-esr": {},
    "plain": PLAIN,
    "semantic only": {"views": ["semantic"]},
    "collaborative only": {"views": ["collaborative"]},
    "without cross attention": {"cross_attention": False},
    "two encoders": {"share_backbone": False},
    "one-layer adapter": {"adapter_layers": 1},
    "pre-norm": {"block": "pre_norm"},
    "ligr": {"block": "ligr", "n_heads": 2},
    "one ligr block": {"block": "ligr", "n_blocks": 1},
    "gru4rec": {"backbone": "gru4rec", "n_blocks": 1},
    "plain gru4rec": {"backbone": "gru4rec", "n_blocks": 2, **PLAIN},
    "bert4rec": {"backbone": "bert4rec"},
    "plain bert4rec": {"backbone": "bert4rec", **PLAIN},
}
REFERENCE: dict[str, dict[str, Any]] = {
    "reference": {"mode": "reference"},
    "reference gru4rec": {"mode": "reference", "backbone": "gru4rec"},
    "reference bert4rec": {"mode": "reference", "backbone": "bert4rec"},
}
VARIANTS = {**CLEAN, **REFERENCE}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def model(request: pytest.FixtureRequest, make_config: Any) -> LLMESR:
    return _build(make_config(model=request.param))


def _build(config: Any) -> LLMESR:
    torch.manual_seed(5)
    return runs.build_model(config, runs.load_inputs(config)).eval()


def _queries(model: LLMESR, item_seq: list[list[int]], seq_len: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.encode(model.item_table(), torch.tensor(item_seq), torch.tensor(seq_len))


def test_a_model_keeps_the_retriever_contract(model: LLMESR) -> None:
    inputs = model.describe_inputs()
    queries = _queries(model, [[0, 0, 0, 0, 3, 4], [1, 2, 3, 4, 5, 6]], [2, 6])

    assert isinstance(model, RetrieverModel)
    assert queries.shape == (2, inputs.n_queries, inputs.dim)
    assert queries.dtype == torch.float32
    assert model.item_table().shape == (13, inputs.dim)


@pytest.mark.parametrize("variant", CLEAN)
def test_appended_padding_changes_nothing_in_clean_mode(variant: str, make_config: Any) -> None:
    model = _build(make_config(model=VARIANTS[variant]))
    short = _queries(model, [[3, 4]], [2])
    padded = _queries(model, [[0, 0, 0, 0, 3, 4]], [2])
    torch.testing.assert_close(short, padded, atol=1e-6, rtol=0)


@pytest.mark.parametrize("variant", REFERENCE)
def test_padding_is_part_of_the_function_in_reference_mode(variant: str, make_config: Any) -> None:
    model = _build(make_config(model=VARIANTS[variant]))
    short = _queries(model, [[3, 4]], [2])
    padded = _queries(model, [[0, 0, 0, 0, 3, 4]], [2])
    assert (short - padded).abs().max() > 1e-4
    assert model.describe_inputs().fixed_length == 6


@pytest.mark.parametrize("variant", [name for name in CLEAN if "bert4rec" not in name])
def test_a_position_does_not_see_its_future_in_clean_mode(variant: str, make_config: Any) -> None:
    model = _build(make_config(model=VARIANTS[variant]))
    table = model.item_table()
    mask = torch.ones(1, 4, dtype=torch.bool)
    with torch.no_grad():
        one = model.encode_positions(table[torch.tensor([[1, 2, 3, 4]])], mask)
        other = model.encode_positions(table[torch.tensor([[1, 2, 9, 11]])], mask)
    torch.testing.assert_close(one[:, :2], other[:, :2], atol=1e-6, rtol=0)
    assert (one[:, 2] - other[:, 2]).abs().max() > 1e-4


def test_an_empty_history_gives_finite_queries(model: LLMESR) -> None:
    assert torch.isfinite(_queries(model, [[0, 0, 0, 0, 0, 0]], [0])).all()


def test_the_order_of_a_history_matters(model: LLMESR) -> None:
    forward = _queries(model, [[0, 0, 0, 1, 2, 3]], [3])
    backward = _queries(model, [[0, 0, 0, 3, 2, 1]], [3])
    assert (forward - backward).abs().max() > 1e-4


@pytest.mark.parametrize("variant", CLEAN)
def test_the_last_position_alone_is_the_last_of_all_positions(variant: str, make_config: Any) -> None:
    model = _build(make_config(model=VARIANTS[variant]))
    mask = torch.tensor([[False, False, True, True], [True, True, True, True]])
    with torch.no_grad():
        vectors = model.item_table()[torch.tensor([[0, 0, 3, 4], [1, 2, 3, 4]])]
        every = model.encode_positions(vectors, mask)
        last = model.encode_positions(vectors, mask, last_only=True)
    torch.testing.assert_close(last, every[:, -1:], atol=1e-6, rtol=0)


def test_two_encoders_share_no_weight(make_config: Any) -> None:
    shared, split = (_build(make_config(model={"share_backbone": share})) for share in (True, False))
    n_encoder = sum(p.numel() for p in shared.encoder.parameters())
    assert sum(p.numel() for p in split.parameters()) - sum(p.numel() for p in shared.parameters()) == n_encoder


def test_bert4rec_is_asked_by_its_mask_token_at_the_position_after_the_newest_item(make_config: Any) -> None:
    model = _build(make_config(model={"backbone": "bert4rec"}))
    mask = torch.ones(1, 3, dtype=torch.bool)
    with torch.no_grad():
        table = model.item_table()
        vectors = table[torch.tensor([[3, 4, 9]])]
        hidden = model.masked_vectors(vectors, torch.tensor([[False, False, True]]))
        asked = model.encode_positions(hidden, mask)[:, -1]
    torch.testing.assert_close(_queries(model, [[3, 4]], [2])[:, 0], asked, atol=1e-6, rtol=0)
    assert (hidden[0, 2] == model.mask_vector[0]).all()
    assert not (table == model.mask_vector).all(1).any()  # no item has its vector


def test_bert4rec_looks_both_ways(make_config: Any) -> None:
    model = _build(make_config(model={"backbone": "bert4rec"}))
    table, mask = model.item_table(), torch.ones(1, 3, dtype=torch.bool)
    with torch.no_grad():
        one, other = (model.encode_positions(table[torch.tensor([[1, 2, last]])], mask) for last in (5, 9))
    assert (one[:, 0] - other[:, 0]).abs().max() > 1e-4


def test_a_score_is_the_sum_of_its_two_views(make_config: Any) -> None:
    model = _build(make_config())
    table = model.item_table()
    query = _queries(model, [[1, 2]], [2])[0, 0]
    whole = table @ query
    torch.testing.assert_close(whole, table[:, :8] @ query[:8] + table[:, 8:] @ query[8:])


def test_the_collaborative_view_starts_from_the_principal_components_of_the_text(make_config: Any) -> None:
    config = make_config()
    inputs = runs.load_inputs(config)
    model = runs.build_model(config, inputs)
    knowledge = inputs.knowledge
    assert knowledge is not None
    expected = (knowledge.item_vectors[4] - knowledge.pca_mean) @ knowledge.pca_components[:8].T
    torch.testing.assert_close(model.item_embeddings[4], torch.from_numpy(expected).float(), atol=1e-6, rtol=0)
    assert (model.item_embeddings[0] == 0).all()


def test_the_llm_vectors_are_not_trained(make_config: Any) -> None:
    model = _build(make_config())
    assert "llm_item_embeddings" not in dict(model.named_parameters())
    assert "llm_item_embeddings" not in model.state_dict()


@pytest.mark.parametrize("layers", [1, 2])
def test_the_folded_adapter_is_its_layers(layers: int, make_config: Any) -> None:
    model = _build(make_config(model={"adapter_layers": layers}))
    with torch.no_grad():
        semantic = model.item_table()[:, 8:]
        torch.testing.assert_close(semantic, model.adapter(model.llm_item_embeddings), atol=1e-5, rtol=0)
