"""Hidden states of a tiny decoder with random weights, made here; every expectation comes from calling it plainly."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from models.__main__ import app
from models.data.folder import write_dataset
from models.errors import KnowledgeError
from models.knowledge.answer_cache import AnswerCache
from models.knowledge.answers_folder import load_answers
from models.knowledge.folder import read_provenance
from models.knowledge.hidden_options import HiddenOptions, Pooling
from models.knowledge.hidden_states import HiddenStates
from models.knowledge.recorded import open_recorded

WORDS = ["red", "blue", "lamp", "chair", "oak"]
TEXTS = ["red lamp", "oak chair blue lamp red", "blue"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers and 8 dimensions that knows five words."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(["?", *WORDS])}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(folder)
    torch.manual_seed(1)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=6, max_position_embeddings=64, bos_token_id=None, eos_token_id=None, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[AnswerCache]:
    with AnswerCache(tmp_path / "cache") as opened:
        yield opened


def plainly(folder: Path, tokens: list[int], layer: int) -> np.ndarray:
    """The states (tokens, 8) of one layer, one text at a time and without padding."""
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        states = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
    return np.asarray(states[layer][0].numpy())


def tokens_of(text: str) -> list[int]:
    return [WORDS.index(word) + 1 for word in text.split()]


@pytest.mark.parametrize("layer", [-1, 0, 1])
def test_the_state_of_the_last_token_whatever_stands_in_the_same_batch(
    tiny: Path, cache: AnswerCache, layer: int
) -> None:
    encoder = HiddenStates(str(tiny), cache, HiddenOptions(layer=layer))
    encoded = encoder.encode(TEXTS)
    assert encoder.dim == 8
    assert (encoded.n_tokens, encoded.n_cut) == (8, 0)
    expected = [plainly(tiny, tokens_of(text), layer)[-1] for text in TEXTS]
    np.testing.assert_allclose(encoded.vectors, expected, rtol=1e-4, atol=1e-5)


def test_the_mean_over_the_prompt(tiny: Path, cache: AnswerCache) -> None:
    encoder = HiddenStates(str(tiny), cache, HiddenOptions(pooling=Pooling.mean_prompt))
    expected = [plainly(tiny, tokens_of(text), -1).mean(0) for text in TEXTS]
    np.testing.assert_allclose(encoder.encode(TEXTS).vectors, expected, rtol=1e-4, atol=1e-5)


def test_the_last_token_of_a_greedy_continuation(tiny: Path, cache: AnswerCache) -> None:
    options = HiddenOptions(pooling=Pooling.last_gen_token, max_new_tokens=2)
    encoder = HiddenStates(str(tiny), cache, options)
    model = LlamaForCausalLM.from_pretrained(tiny).eval()
    tokens = tokens_of(TEXTS[0])
    with torch.no_grad():
        for _ in range(2):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    expected = plainly(tiny, tokens, -1)[-1]
    np.testing.assert_allclose(encoder.encode(TEXTS[:1]).vectors[0], expected, rtol=1e-4, atol=1e-5)


def test_a_long_prompt_loses_its_beginning(tiny: Path, cache: AnswerCache) -> None:
    encoder = HiddenStates(str(tiny), cache, HiddenOptions(max_tokens=3))
    encoded = encoder.encode([TEXTS[1]])
    assert (encoded.n_tokens, encoded.n_cut) == (3, 1)
    expected = plainly(tiny, tokens_of("blue lamp red"), -1)[-1]
    np.testing.assert_allclose(encoded.vectors[0], expected, rtol=1e-4, atol=1e-5)


def test_what_was_read_is_not_read_again_also_after_an_interrupt(
    tiny: Path, cache: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.knowledge.hidden_states.TOKENS_PER_BATCH", {"cpu": 5, "cuda": 5})
    encoder = HiddenStates(str(tiny), cache)
    read: list[int] = []
    states = encoder._states

    def counted(prompts: list[list[int]]) -> np.ndarray:
        if len(read) == 1:
            raise KeyboardInterrupt
        read.append(len(prompts))
        return states(prompts)

    monkeypatch.setattr(encoder, "_states", counted)
    with pytest.raises(KeyboardInterrupt):
        encoder.encode(TEXTS)
    again = HiddenStates(str(tiny), cache)
    n_read: list[int] = []
    monkeypatch.setattr(again, "_states", lambda prompts: n_read.append(len(prompts)) or states(prompts))
    told: list[tuple[int, int]] = []
    vectors = again.encode(TEXTS, lambda done, total: told.append((done, total))).vectors
    assert read == [1]  # the text of five tokens fills a batch
    assert sum(n_read) == 2
    assert told[-1] == (8, 8)
    assert sum(n_read) == 2
    np.testing.assert_array_equal(again.encode(TEXTS).vectors, vectors)
    assert sum(n_read) == 2


def test_other_options_or_weights_are_another_encoder(tiny: Path, cache: AnswerCache, tmp_path: Path) -> None:
    other = tmp_path / "other"
    torch.manual_seed(2)
    LlamaForCausalLM(LlamaForCausalLM.from_pretrained(tiny).config).save_pretrained(other)
    PreTrainedTokenizerFast.from_pretrained(tiny).save_pretrained(other)
    encoders = [
        HiddenStates(str(tiny), cache),
        HiddenStates(str(tiny), cache, HiddenOptions(layer=1)),
        HiddenStates(str(tiny), cache, HiddenOptions(pooling=Pooling.mean_prompt)),
        HiddenStates(str(other), cache),
    ]
    assert len({encoder.digest for encoder in encoders}) == 4
    assert HiddenStates(str(tiny), cache).digest == encoders[0].digest
    first = encoders[0].encode(TEXTS).vectors
    assert not np.allclose(first, encoders[3].encode(TEXTS).vectors)


def test_the_model_the_layer_or_the_package_that_is_missing_is_named(
    tiny: Path, cache: AnswerCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KnowledgeError, match="layers 0 to 2, found layer 3"):
        HiddenStates(str(tiny), cache, HiddenOptions(layer=3))
    (tmp_path / "empty").mkdir()
    with pytest.raises(KnowledgeError, match=r"model '.*empty' cannot be loaded"):
        HiddenStates(str(tmp_path / "empty"), cache)
    with pytest.raises(KnowledgeError, match="a text has no token"):
        HiddenStates(str(tiny), cache).encode([" "])
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(KnowledgeError, match=r"package 'transformers' is not installed; .*afterglow\[train,hidden\]"):
        HiddenStates(str(tiny), cache)


def test_a_state_that_float16_cannot_hold_is_refused_with_advice(
    tiny: Path, cache: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = HiddenStates(str(tiny), cache)
    monkeypatch.setattr(encoder, "_states", lambda prompts: np.full((len(prompts), 8), 1e6, np.float32))
    with pytest.raises(KnowledgeError, match="beyond float16; another --layer or --dtype may help"):
        encoder.encode(["red"])


@pytest.fixture
def shops(tmp_path: Path) -> Path:
    """Two users in two scenarios; llm4msr asks about both users and both scenarios."""
    rows = [
        {"user_id": user, "item_id": item, "timestamp": time, "scenario": scenario}
        for user in ("u1", "u2")
        for time, (item, scenario) in enumerate([("a", "home"), ("b", "garden"), ("a", "home"), ("b", "garden")])
    ]
    items = [{"item_id": "a", "title": "red lamp"}, {"item_id": "b", "title": "oak chair"}]
    write_dataset(tmp_path / "shops", pa.Table.from_pylist(rows), pa.Table.from_pylist(items))
    return tmp_path / "shops"


def invoke(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    return result.exit_code, result.stderr


def test_requests_of_a_paper_become_a_folder_of_vectors_with_their_origin(
    tiny: Path, shops: Path, tmp_path: Path
) -> None:
    requests, out = tmp_path / "msr.jsonl", tmp_path / "msr"
    assert invoke("knowledge", "requests", shops, "--paper", "llm4msr", "--out", requests)[0] == 0
    command = ("knowledge", "hidden", requests, "--model", tiny, "--out", out, "--cache", tmp_path / "kept")
    code, said = invoke(*command)
    assert code == 0, said
    assert "4 vectors of 8 numbers" in said
    found = load_answers(out)
    assert sorted(found.answers) == [
        f"llm4msr:shops:{of}" for of in ("scenario:garden", "scenario:home", "user:u1", "user:u2")
    ]
    about = found.provenance["hidden_states"]
    assert {key: about[key] for key in ("model", "layer", "pooling", "dtype", "dim", "revision")} == {
        "model": "tiny-llama",
        "layer": -1,
        "pooling": "last_prompt_token",
        "dtype": "float32",
        "dim": 8,
        "revision": None,
    }
    assert found.provenance["n_cut"] == 0
    assert found.provenance["split"] == "leave_one_out"
    assert found.provenance["n_answers"] == {"user": 2, "scenario": 2}
    before = (out / "vectors.npz").read_bytes()
    assert invoke(*command)[0] == 0
    assert (out / "vectors.npz").read_bytes() == before


def test_a_folder_with_other_answers_is_left_alone(tiny: Path, shops: Path, tmp_path: Path) -> None:
    requests, out = tmp_path / "msr.jsonl", tmp_path / "words"
    invoke("knowledge", "requests", shops, "--paper", "llm4msr", "--out", requests)
    out.mkdir()
    (out / "answers.jsonl").write_text("{}\n")
    code, said = invoke("knowledge", "hidden", requests, "--model", tiny, "--out", out, "--cache", tmp_path / "kept")
    assert code == 1
    assert "holds answers in words" in said
    assert not (out / "vectors.npz").exists()


def test_items_and_users_can_be_built_from_hidden_states(tiny: Path, shops: Path, tmp_path: Path) -> None:
    command = ("knowledge", "build", shops, "--out", tmp_path / "built", "--encoder", f"transformers:{tiny}")
    code, said = invoke(*command, "--cache", tmp_path / "kept", "--similar", 1)
    assert code == 0, said
    encoder = json.loads((tmp_path / "built" / "knowledge.json").read_text())["encoder"]
    assert encoder["name"] == "transformers:tiny-llama (mean_prompt, layer -1, float32)"
    assert encoder["dim"] == 8


def test_vectors_of_new_texts_are_taken_if_model_and_options_are_those_of_the_knowledge(
    tiny: Path, shops: Path, tmp_path: Path
) -> None:
    kept = ("--cache", tmp_path / "kept", "--pooling", "mean_prompt")
    build = ("knowledge", "build", shops, "--out", tmp_path / "built", "--encoder", f"transformers:{tiny}")
    assert invoke(*build, "--similar", 1, *kept)[0] == 0
    invoke("knowledge", "requests", shops, "--paper", "llm-esr", "--out", tmp_path / "esr.jsonl")
    hidden = ("knowledge", "hidden", tmp_path / "esr.jsonl", "--model", tiny, *kept)
    assert invoke(*hidden, "--out", tmp_path / "same")[0] == 0
    assert invoke(*hidden, "--layer", 1, "--out", tmp_path / "other")[0] == 0
    provenance = read_provenance(tmp_path / "built")
    assert open_recorded(provenance, tmp_path / "same").encode(["red lamp"]).vectors.shape == (1, 8)
    with pytest.raises(KnowledgeError, match="with other options than the knowledge"):
        open_recorded(provenance, tmp_path / "other")
    with pytest.raises(KnowledgeError, match="which is not on this machine"):
        open_recorded(provenance)
