"""LLM4SBR: taught by answers, served without them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from intent_fakes import PLAIN
from rich.console import Console

from models import runs
from models.errors import ConfigError
from models.evaluate import evaluate
from models.inputs import Inputs
from models.llm4sbr import LLM4SBR, Answers
from models.llm4sbr_training import LLM4SBRCurriculum
from models.papers import PAPERS
from models.sessions.answered import split_answered
from models.train import train

SOURCES = ("distilled", "localised", "stand_in")
Built = tuple[LLM4SBR, LLM4SBRCurriculum, Inputs]


@pytest.fixture
def build(taught_config: Any) -> Any:
    def make(model: dict[str, Any] | None = None, **data: Any) -> Built:
        config = taught_config(model, **data)
        inputs = runs.load_inputs(config)
        torch.manual_seed(4)
        made = runs.build_model(config, inputs)
        return made, PAPERS["llm4sbr"].curriculum(config, inputs, made, torch.device("cpu")), inputs

    return make


@pytest.mark.parametrize("intents", SOURCES)
def test_padding_and_the_rest_of_a_batch_change_nothing(intents: str, build: Any) -> None:
    model, _, _ = build({"intents": intents})
    alone = model.eval().read_sessions(torch.tensor([[3, 4]]), torch.tensor([2]))
    padded = model.read_sessions(torch.tensor([[0, 0, 3, 4], [1, 2, 3, 4]]), torch.tensor([2, 4]))
    torch.testing.assert_close(padded.queries[:1], alone.queries, atol=1e-6, rtol=1e-5)
    for found, expected in zip(padded.intents, alone.intents, strict=True):
        torch.testing.assert_close(found[:1], expected, atol=1e-6, rtol=1e-5)


def test_answers_reach_the_gates_of_their_own_session_alone(build: Any) -> None:
    model, curriculum, _ = build()
    item_seq, seq_len = torch.tensor([[1, 2], [3, 4]]), torch.tensor([2, 2])
    served = model.read_sessions(item_seq, seq_len)
    told = model.read_sessions(item_seq, seq_len, Answers(curriculum.texts[:2] * 9, torch.tensor([True, False])))
    assert not torch.allclose(served.queries[0], told.queries[0])
    torch.testing.assert_close(served.queries[1], told.queries[1])


def test_clicks_teach_no_source_and_answers_do(build: Any) -> None:
    model, curriculum, _ = build()
    batch = next(curriculum.batches(torch.Generator().manual_seed(1)))
    curriculum.loss(batch._replace(taught=None)).backward()
    assert all(parameter.grad is None for parameter in model.source.parameters())
    assert model.gates["long"].weights.grad is not None
    curriculum.loss(batch).backward()
    assert all(parameter.grad is not None for parameter in model.source.parameters())


@pytest.mark.parametrize(
    "model",
    [PLAIN, {"gates": False}, {"au_weight": 0.0}, {"views": ["short"]}, {"au_views": "sum"}, {"intents": "stand_in"}],
)
def test_every_ablation_trains_from_the_weights_of_the_plain_encoder(model: dict[str, Any], build: Any) -> None:
    made, curriculum, _ = build(model)
    plain, _, _ = build(PLAIN)
    weights = made.state_dict()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(weights[name], value)
    made.train()
    loss = curriculum.loss(next(curriculum.batches(torch.Generator().manual_seed(1))))
    assert torch.isfinite(loss)
    assert set(made.gates) == set({"long", "short"} if made.config.gates else {}) & set(made.config.views)


def test_the_sum_of_both_views_weighs_twice_their_mean(build: Any) -> None:
    """With nothing else to learn but alignment, the loss over that of the plain encoder is exactly twice as much."""
    found = {}
    for views in ("mean", "sum"):
        model, curriculum, _ = build({"au_views": views, "distillation_weight": 0.0, "gates": False, "intents": "none"})
        batch = next(curriculum.batches(torch.Generator().manual_seed(1)))
        found[views] = (curriculum.loss(batch) - curriculum.loss(batch._replace(taught=None))).item()
        assert model.projection is not None
    assert found["sum"] == pytest.approx(2 * found["mean"], rel=1e-4)


def test_no_click_that_is_held_back_is_trained_on(build: Any) -> None:
    _, curriculum, inputs = build()
    knowledge = inputs.knowledge
    parts = split_answered(knowledge, inputs.dataset, inputs.split, curriculum.settings.answers_seed)
    seen = torch.cat([batch.clicks.prefixes for batch in curriculum.batches(torch.Generator().manual_seed(1))])
    sessions = set(curriculum.prefixes.sessions[seen].tolist())
    out = np.concatenate([parts.held_back, parts.validating])
    assert not sessions & set(knowledge.users[out].tolist())
    assert not sessions & set(inputs.split.test.user_index.tolist())
    trained = set(
        zip(curriculum.prefixes.sessions[seen].tolist(), curriculum.prefixes.cuts[seen].tolist(), strict=True)
    )
    never = set(
        zip(knowledge.users[parts.not_targets].tolist(), knowledge.cuts[parts.not_targets].tolist(), strict=True)
    )
    assert never
    assert not trained & never
    assert len(trained) == len(seen)


def test_fewer_answers_are_a_part_of_more(build: Any) -> None:
    _, some, _ = build({"answers": 8})
    _, more, _ = build()
    assert len(some.texts) == 8 < len(more.texts)
    assert set(some.taught.trained.tolist()) < set(more.taught.trained.tolist())
    for prefix in some.taught.trained.tolist():
        assert some.answer_of_prefix[prefix] == more.answer_of_prefix[prefix] >= 0
    torch.testing.assert_close(some.texts, more.texts[:8])
    assert some.n_batches == more.n_batches  # clicks are the same


def test_every_answer_comes_before_one_comes_again(build: Any) -> None:
    _, curriculum, _ = build({"answered_batch": 7})
    in_turn, found = curriculum._in_turn(torch.Generator().manual_seed(1)), []
    n = len(curriculum.texts)
    while len(found) < n - 1:  # one left over would be passed by
        found += next(in_turn).prefixes.tolist()
    assert len(set(found)) == len(found)
    assert set(found) <= set(curriculum.taught.trained.tolist())


@pytest.mark.parametrize("intents", SOURCES)
def test_a_run_is_judged_with_answers_and_without(
    intents: str, taught_config: Any, tmp_path: Path, quiet: Console
) -> None:
    config = taught_config({"intents": intents})
    summary = train(config, tmp_path / "run", quiet)
    assert {"mrr@20", "hr@5", "intent_cosine_long", "intent_cosine_short"} <= summary["validation"].keys()
    answered = evaluate(tmp_path / "run", quiet)["answered"]
    assert answered["n"] > 0
    assert {"hr@5", "mrr@20"} <= answered["behaviour"].keys() & answered["cached"].keys()
    with np.load(tmp_path / "run" / "answered_ranks.npz") as saved:
        assert len(saved["behaviour"]) == len(saved["cached"]) == len(saved["users"]) == answered["n"]
        ranks = saved["behaviour"]
    loaded = runs.load_run(tmp_path / "run")
    exam = PAPERS["llm4sbr"].exam(config, loaded.dataset, loaded.split)
    np.testing.assert_array_equal(exam._ranks(loaded.model, exam.parts.held_back, cached=False), ranks)


def test_the_plain_encoder_is_judged_on_the_same_prefixes(taught_config: Any, tmp_path: Path, quiet: Console) -> None:
    found = {}
    for name, model in (("plain", PLAIN), ("taught", {})):
        train(taught_config(model, {"max_epochs": 1}), tmp_path / name, quiet)
        found[name] = evaluate(tmp_path / name, quiet)["answered"]
    assert "cached" not in found["plain"]
    assert found["plain"]["n"] == found["taught"]["n"]
    assert found["plain"]["n_taught"] == 0 < found["taught"]["n_taught"]
    arrays = [np.load(tmp_path / name / "answered_ranks.npz")["users"].tolist() for name in found]
    assert arrays[0] == arrays[1]


def test_shuffled_intents_teach_other_prefixes(build: Any) -> None:
    _, taught, _ = build()
    _, dealt, inputs = build(None, shuffle_knowledge=["intents"], shuffle_seed=1)
    assert dealt.answer_of_prefix.tolist() == taught.answer_of_prefix.tolist()
    assert not torch.equal(dealt.texts, taught.texts)
    assert inputs.knowledge.provenance["shuffled"]["what"] == ["intents"]


def test_gates_without_intents_are_refused(taught_config: Any) -> None:
    with pytest.raises(ConfigError, match="gates read intents"):
        taught_config({"intents": "none"})


def test_a_model_holds_no_answer(build: Any) -> None:
    """Whatever was said of prefixes, a model of the same weights serves the same."""
    model, _, inputs = build()
    other = dataclasses.replace(inputs.knowledge, vectors=inputs.knowledge.vectors * 0)
    twin = LLM4SBR(model.config, inputs.dataset.n_items, other)
    twin.load_state_dict(model.state_dict())
    sessions = torch.tensor([[1, 2, 3]]), torch.tensor([3])
    torch.testing.assert_close(twin.read_sessions(*sessions).queries, model.read_sessions(*sessions).queries)
