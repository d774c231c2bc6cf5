"""The four multi-interest encoders behind their one interface."""

from __future__ import annotations

import pytest
import torch

from models.config import EIMFConfig
from models.contracts import AttentiveModel, RetrieverModel
from models.eimf import EIMF
from models.interests import build_interest_encoder, route, squash

RETRIEVERS = ("comirec-sa", "comirec-dr", "mind", "remi")
N_ITEMS = 9


def plain(retriever: str, **changes: object) -> EIMF:
    torch.manual_seed(3)
    settings = {"hidden_size": 8, "n_interests": 3, "max_seq_len": 5, **changes}
    weights = {"semantic_prediction_weight": 0.0, "alignment_weight": 0.0}
    config = EIMFConfig.model_validate({"kind": "eimf", "retriever": retriever, **settings, **weights})
    return EIMF(config, N_ITEMS, None).eval()


@pytest.fixture(params=RETRIEVERS)
def model(request: pytest.FixtureRequest) -> EIMF:
    return plain(request.param)


@torch.no_grad()
def ask(model: EIMF, item_seq: list[list[int]], seq_len: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    found = model.encode_interests(model.item_table()[torch.tensor(item_seq)], torch.tensor(seq_len))
    return found.queries, found.attention


def test_a_model_keeps_the_retriever_contract(model: EIMF) -> None:
    queries, attention = ask(model, [[0, 0, 4], [1, 2, 3]], [1, 3])
    inputs = model.describe_inputs()
    assert isinstance(model, RetrieverModel)
    attentive: AttentiveModel = model
    assert attentive.interest_phrases() is None
    assert inputs.has_attention
    assert queries.shape == (2, inputs.n_queries, inputs.dim) == (2, 3, 8)
    assert attention.shape == (2, 3, 3)
    assert model.item_table().shape == (N_ITEMS + 1, 8)


def test_padding_changes_nothing_and_gets_no_attention(model: EIMF) -> None:
    short, short_attention = ask(model, [[3, 4]], [2])
    padded, attention = ask(model, [[0, 0, 0, 3, 4]], [2])
    torch.testing.assert_close(short, padded, atol=1e-6, rtol=0)
    torch.testing.assert_close(short_attention, attention[..., 3:], atol=1e-6, rtol=0)
    assert (attention[..., :3] == 0).all()


def test_what_stands_in_padding_does_not_matter(model: EIMF) -> None:
    torch.testing.assert_close(ask(model, [[7, 7, 4]], [1])[0], ask(model, [[0, 0, 4]], [1])[0], atol=0, rtol=0)


def test_other_histories_of_a_batch_change_nothing(model: EIMF) -> None:
    together, _ = ask(model, [[0, 3, 4], [1, 2, 3]], [2, 3])
    alone, _ = ask(model, [[0, 3, 4]], [2])
    torch.testing.assert_close(together[:1], alone, atol=1e-6, rtol=0)


def test_attention_is_shared_out_over_the_items(model: EIMF) -> None:
    _, attention = ask(model, [[0, 3, 4], [1, 2, 3]], [2, 3])
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 3), atol=1e-5, rtol=0)
    assert (attention >= 0).all()


def test_an_empty_history_is_zeros(model: EIMF) -> None:
    queries, attention = ask(model, [[0, 0]], [0])
    assert (queries == 0).all()
    assert (attention == 0).all()


def test_interests_differ_and_the_order_of_a_history_matters(model: EIMF) -> None:
    queries, _ = ask(model, [[1, 2, 3, 4], [4, 3, 2, 1]], [4, 4])
    assert (queries[:, 0] - queries[:, 1]).abs().max() > 1e-5
    assert (queries[0] - queries[1]).abs().max() > 1e-5


def test_a_model_answers_the_same_every_time() -> None:
    # MIND's routing starts from numbers that were drawn: they are weights, not drawn for each user.
    for retriever in RETRIEVERS:
        model = plain(retriever)
        torch.manual_seed(11)
        first, _ = ask(model, [[1, 2, 3]], [3])
        torch.manual_seed(12)
        again, _ = ask(model, [[1, 2, 3]], [3])
        assert torch.equal(first, again)
        other = plain(retriever)
        other.load_state_dict(model.state_dict())
        assert torch.equal(ask(other, [[1, 2, 3]], [3])[0], first)


def test_squash_keeps_the_direction_and_shortens_the_length() -> None:
    # Length 3 becomes 9 / 10.
    torch.testing.assert_close(squash(torch.tensor([[3.0, 0.0]])), torch.tensor([[0.9, 0.0]]))
    assert (squash(torch.zeros(1, 2)) == 0).all()


def test_a_round_of_routing_worked_by_hand() -> None:
    # One item, two interests, routing from zeros: the item is shared out half and half, so each sum is half of what
    # the interest's map made of it: (1, 0) and (0, 2) give lengths 1/2 and 1, squashed to 1/5 and 1/2.
    mapped = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])  # (1, 2, 1, 2)
    found = route(mapped, torch.zeros(1, 2, 1), torch.tensor([[True]]), 1)
    torch.testing.assert_close(found.queries, torch.tensor([[[0.2, 0.0], [0.0, 0.5]]]))
    # A second round adds <mapped, interest> = 0.2 and 1.0 to the logits before sharing out again.
    twice = route(mapped, torch.zeros(1, 2, 1), torch.tensor([[True]]), 2)
    share = torch.softmax(torch.tensor([0.2, 1.0]), 0)
    expected = torch.stack([squash(torch.tensor([share[0], 0.0])), squash(torch.tensor([0.0, 2 * share[1]]))])
    torch.testing.assert_close(twice.queries[0], expected)


def test_only_the_last_round_of_routing_is_learnt_through() -> None:
    encoder = build_interest_encoder(plain("comirec-dr").config)
    vectors = torch.randn(1, 3, 8, requires_grad=True)
    encoder(vectors, torch.ones(1, 3, dtype=torch.bool)).queries.sum().backward()
    assert vectors.grad is not None
    assert vectors.grad.abs().sum() > 0
