"""The encoder behind an endpoint, against a real local server."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_endpoint import Call, FakeClock, FakeEndpoint, Reply, embeddings, error, vector
from rich.console import Console

from models.data.dataset import Dataset
from models.data.splits import leave_one_out
from models.errors import KnowledgeError
from models.knowledge import embeddings as module
from models.knowledge.answer_cache import AnswerCache
from models.knowledge.budget import Budget
from models.knowledge.embeddings import EndpointEncoder
from models.knowledge.endpoint import Endpoint
from models.knowledge.store import build_knowledge, load_knowledge


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[AnswerCache]:
    with AnswerCache(tmp_path / "cache") as opened:
        yield opened


def open_encoder(
    server: FakeEndpoint, cache: AnswerCache, budget: Budget | None = None, dimensions: int | None = None
) -> EndpointEncoder:
    endpoint = Endpoint(server.url, budget=budget, concurrency=1, clock=FakeClock().clock())
    return EndpointEncoder(endpoint, cache, "e", dimensions)


def test_vectors_come_in_the_order_of_the_texts_and_once(
    server: FakeEndpoint, cache: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TEXTS_PER_CALL", 2)
    encoder = open_encoder(server, cache)
    assert (encoder.name, encoder.dim, encoder.test_only) == ("openai:e", 4, False)
    texts = ["lamp", "chair", "oak table"]
    encoded = encoder.encode(texts)
    np.testing.assert_array_equal(encoded.vectors, [vector(text) for text in texts])
    assert (encoded.n_tokens, encoded.n_cut) == (9, 0)
    assert server.texts() == [["afterglow"], ["lamp", "chair"], ["oak table"]]
    assert [call.path for call in server.calls] == ["/v1/embeddings"] * 3
    again = open_encoder(server, cache).encode([*texts, "rug"])
    np.testing.assert_array_equal(again.vectors[:3], encoded.vectors)
    assert server.texts()[3:] == [["rug"]]
    assert again.n_tokens == 12


def test_the_reported_tokens_of_a_batch_are_shared_out_without_loss(server: FakeEndpoint, cache: AnswerCache) -> None:
    encoder = open_encoder(server, cache)
    server.script = [lambda call: embeddings(call.body["input"], tokens=101)]
    assert encoder.encode(["a", "bb" * 30, "c"]).n_tokens == 101
    assert encoder.encode(["a", "bb" * 30, "c"]).n_tokens == 101


def test_base64_vectors_are_read_too(server: FakeEndpoint, cache: AnswerCache) -> None:
    def packed(call: Call) -> Reply:
        data = base64.b64encode(np.array([1.5, -2.0], dtype="<f4").tobytes()).decode()
        rows = [{"index": index, "embedding": data} for index in range(len(call.body["input"]))]
        return Reply(body=json.dumps({"data": rows}).encode())

    server.usual = packed
    assert open_encoder(server, cache).encode(["lamp"]).vectors.tolist() == [[1.5, -2.0]]


def test_too_few_vectors_are_asked_again(server: FakeEndpoint, cache: AnswerCache) -> None:
    encoder = open_encoder(server, cache)
    server.script = [embeddings(["lamp"]), error(500)]
    assert encoder.encode(["lamp", "chair"]).vectors.shape == (2, 4)
    assert len(server.calls) == 1 + 3


def test_large_texts_are_sent_in_smaller_batches(
    server: FakeEndpoint, cache: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOKENS_PER_CALL", 25)
    open_encoder(server, cache).encode(["a" * 30, "b" * 30, "c" * 300, "d" * 30])  # 11, 11, 101, 11 tokens
    assert [len(texts) for texts in server.texts()] == [1, 2, 1, 1]


def test_a_spent_budget_keeps_what_arrived(
    server: FakeEndpoint, cache: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TEXTS_PER_CALL", 1)
    encoder = open_encoder(server, cache, Budget(max_calls=3))
    with pytest.raises(KnowledgeError, match="2 of 4 texts have a vector: the budget of 3 calls is spent"):
        encoder.encode(["a", "b", "c", "d"])
    assert open_encoder(server, cache).encode(["a", "b", "c", "d"]).vectors.shape == (4, 4)
    assert server.texts() == [["afterglow"], ["a"], ["b"], ["c"], ["d"]]


def test_a_model_that_ignores_the_asked_dimensions_is_refused(server: FakeEndpoint, cache: AnswerCache) -> None:
    assert open_encoder(server, cache, dimensions=4).dim == 4
    assert server.calls[0].body["dimensions"] == 4
    with pytest.raises(KnowledgeError, match="gives 4 dimensions, expected 2"):
        open_encoder(server, cache, dimensions=2)


def test_a_knowledge_folder_is_built_from_an_endpoint_and_again_without_a_call(
    server: FakeEndpoint, cache: AnswerCache, five_items: Dataset, tmp_path: Path, silent: Console
) -> None:
    split = leave_one_out(five_items)
    build_knowledge(five_items, split, tmp_path / "k", open_encoder(server, cache), console=silent, n_components=2)
    knowledge = load_knowledge(tmp_path / "k", five_items)
    assert knowledge.item_vectors[1].tolist() == vector("red lamp")
    assert knowledge.provenance["encoder"]["name"] == "openai:e"
    n_calls = len(server.calls)
    build_knowledge(five_items, split, tmp_path / "k2", open_encoder(server, cache), console=silent, n_components=2)
    assert len(server.calls) == n_calls
