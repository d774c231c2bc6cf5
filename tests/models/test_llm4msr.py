from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msr_fakes import msr_config, shop_knowledge, small_shop
from rich.console import Console

from models import runs
from models.config import LLM4MSRConfig, RunConfig, parse_config
from models.data.dataset import read_dataset
from models.data.splits import SPLITS
from models.errors import ConfigError
from models.evaluate import evaluate
from models.item_attributes import item_attributes
from models.knowledge.meta import load_meta
from models.llm4msr import LLM4MSR
from models.llm4msr_training import LLM4MSRCurriculum
from models.meta_layers import Generator, ScenarioLevel, UserLevel, apply_generated
from models.papers import PAPERS
from models.ranker_metrics import auc
from models.train import train

KINDS = ("shared-bottom", "mmoe", "ple", "star", "aitm", "pepnet")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shop(tmp_path_factory.mktemp("llm4msr") / "shop")


@pytest.fixture(scope="module")
def knowledge(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop_knowledge(read_dataset(shop), "global_time", tmp_path_factory.mktemp("llm4msr") / "knowledge")


def _built(config: RunConfig) -> tuple[LLM4MSR, LLM4MSRCurriculum]:
    inputs = runs.load_inputs(config)
    torch.manual_seed(config.seed)
    model: LLM4MSR = runs.build_model(config, inputs)
    return model, PAPERS["llm4msr"].curriculum(config, inputs, model, torch.device("cpu"))  # type: ignore[return-value]


def _batch(curriculum: LLM4MSRCurriculum) -> Any:
    return next(iter(curriculum.batches(torch.Generator().manual_seed(0))))


@pytest.mark.parametrize("kind", KINDS)
def test_at_step_0_the_model_is_the_bare_backbone(kind: str, shop: Path, knowledge: Path) -> None:
    whole, curriculum = _built(msr_config(shop, knowledge, backbone=kind))
    plain, _ = _built(msr_config(shop, None, backbone=kind, user_level=False, scenario_level=False))
    batch = _batch(curriculum)
    for is_training in (True, False):
        whole.train(is_training)
        plain.train(is_training)
        inputs = (batch.item_seq, batch.seq_len, batch.scenario_index, batch.candidates, batch.users)
        torch.testing.assert_close(whole(*inputs), plain(*inputs), atol=1e-6, rtol=0)


@pytest.mark.parametrize("layers", [1, 2])
def test_both_levels_learn_from_the_first_steps(layers: int, shop: Path, knowledge: Path) -> None:
    config = msr_config(shop, knowledge, n_user_layers=layers, n_scenario_layers=layers, default_share=0.0)
    model, curriculum = _built(config)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(2):  # what is zero learns in the first step, what reads through it in the second
        optimiser.zero_grad()
        curriculum.loss(_batch(curriculum)).backward()
        optimiser.step()
    assert model.user_level is not None
    assert model.scenario_level is not None
    for part in (model.user_level.bottleneck, model.user_level.layers, model.user_level.head):
        assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in part.parameters())
    for part in (model.scenario_level.bottleneck, model.scenario_level.layers):
        assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in part.parameters())
    assert not model.user_vectors.requires_grad
    assert not model.scenario_level.vectors.requires_grad


def test_a_generated_layer_is_one_matrix_for_all_candidates_of_a_request() -> None:
    level = UserLevel(vector_size=3, behaviour_size=4, z_size=2, width=2, n_layers=1)
    generator = level.layers[0]
    assert isinstance(generator, Generator)
    with torch.no_grad():
        generator.layer.bias.copy_(torch.tensor([1.0, 0.0, 0.0, -1.0, 0.5, 0.0]))  # [[1, 0], [0, -1]], (0.5, 0)
    features = torch.tensor([[[2.0, 3.0], [-4.0, 0.0]]])
    # (2, 3) W + b = (2.5, -3) -> (2.5, -0.3); (-4, 0) -> (-3.5, 0) -> (-0.35, 0)
    expected = [[[4.5, 2.7], [-4.35, 0.0]]]
    torch.testing.assert_close(level(features, torch.zeros(1, 2)), torch.tensor(expected))


def test_scenario_layers_run_in_a_chain_and_are_chosen_by_the_request() -> None:
    first = (torch.tensor([[[1.0]], [[2.0]]]), torch.tensor([[0.0], [1.0]]))
    second = (torch.tensor([[[3.0]], [[-1.0]]]), torch.tensor([[0.5], [0.0]]))
    x = torch.tensor([[[2.0], [-10.0]], [[2.0], [-10.0]]])
    # scenario 0: 2 -> 3 x 2 + 0.5, -10 -> -1 after the slope: 3 x -1 + 0.5; scenario 1: 5 -> -5, -19 -> -1.9 -> 1.9
    found = apply_generated([first, second], x, torch.tensor([0, 1]))
    torch.testing.assert_close(found, torch.tensor([[6.5, -2.5], [-5.0, 1.9]]))


def test_permuting_the_vectors_of_two_users_permutes_only_their_scores(shop: Path, knowledge: Path) -> None:
    model, curriculum = _built(msr_config(shop, knowledge))
    model.eval()
    assert model.user_level is not None
    torch.nn.init.normal_(model.user_level.layers[0].layer.weight)
    batch = _batch(curriculum)
    told = torch.nonzero(model.vector_of_user)[:, 0][:3]
    rows = [batch.item_seq[:1].expand(3, -1), batch.seq_len[:1].expand(3), batch.scenario_index[:1].expand(3)]
    rows.append(batch.candidates[:1].expand(3, -1))
    before = model(*rows, told)
    with torch.no_grad():
        model.user_vectors[[1, 2]] = model.user_vectors[[2, 1]]
    after = model(*rows, told)
    assert model.vector_of_user[told].tolist() == [1, 2, 3]
    assert not torch.allclose(before[0], before[1])
    torch.testing.assert_close(after, before[[1, 0, 2]])


def test_an_item_of_few_events_is_known_by_its_attributes_alone(shop: Path) -> None:
    plain = {"user_level": False, "scenario_level": False}
    counts = item_attributes(dataset := read_dataset(shop), SPLITS["global_time"](dataset)).counts
    least = int(np.sort(counts[1:])[5])
    model, _ = _built(msr_config(shop, None, **plain, min_item_events=least))
    size, table = model.config.embedding_size, model.item_table()
    few = torch.as_tensor(counts < least)
    assert few[1:].any()
    assert not table[few, :size].any()
    torch.testing.assert_close(table[~few, :size], model.item_embeddings.weight[~few])
    # As the item of a click it has one event fewer: the last one that it needs, in one case.
    item = torch.as_tensor(np.flatnonzero(counts == least)[:1])
    assert model.rows(item)[0, :size].any()
    assert not model.rows(item, torch.tensor([True]))[0, :size].any()
    torch.testing.assert_close(model.rows(item, torch.tensor([False])), model.rows(item))


def test_what_is_taught_does_not_read_its_own_click(shop: Path) -> None:
    model, curriculum = _built(msr_config(shop, None, user_level=False, scenario_level=False))
    batch, seen = _batch(curriculum), []
    rows = model.rows
    model.rows = lambda items, taken=None: seen.append(taken) or rows(items, taken)  # type: ignore[method-assign]
    curriculum.loss(batch)
    of_history, of_candidates = seen
    assert of_history is None
    torch.testing.assert_close(of_candidates, batch.labels > 0)


def test_choices_of_z(shop: Path, knowledge: Path) -> None:
    model, curriculum = _built(msr_config(shop, knowledge))
    model.eval()
    batch = _batch(curriculum)
    history = model.rows(batch.item_seq)
    model.vector_of_user[batch.users[0]] = 0  # the LLM was never asked about this one
    true, predicted, default = (
        model.z_of(batch.users, history, batch.seq_len, choice) for choice in ("true", "predicted", "default")
    )
    known = model.vector_of_user[batch.users] > 0
    told, _ = model.told_z(batch.users)
    torch.testing.assert_close(true[known], told[known])
    torch.testing.assert_close(true[~known], predicted[~known])
    assert not known[0]
    assert model.user_level is not None
    torch.testing.assert_close(default[0], model.user_level.default)


def test_padding_changes_no_score_and_an_empty_history_is_answered(shop: Path, knowledge: Path) -> None:
    model, _ = _built(msr_config(shop, knowledge))
    model.eval()
    candidates, users, scenario = torch.tensor([[1, 2, 3]]), torch.tensor([0]), torch.tensor([1])
    short = model(torch.tensor([[7, 9]]), torch.tensor([2]), scenario, candidates, users)
    padded = model(torch.tensor([[0, 0, 0, 7, 9]]), torch.tensor([2]), scenario, candidates, users)
    torch.testing.assert_close(short, padded)
    empty = model(torch.tensor([[0]]), torch.tensor([0]), scenario, candidates, users)
    assert torch.isfinite(empty).all()
    wider = model(torch.zeros(1, 5, dtype=torch.int64), torch.tensor([0]), scenario, candidates, users)
    torch.testing.assert_close(empty, wider)


def test_identical_vectors_make_the_bottom_the_same_for_all(shop: Path, knowledge: Path) -> None:
    level = ScenarioLevel(torch.ones(3, 4), z_size=3, width=2, n_layers=2)
    (weight, _), *_ = level.generated()
    torch.testing.assert_close(weight[0], weight[2])


def test_controls_give_noise_or_anothers_vector_to_the_same_users(shop: Path, knowledge: Path) -> None:
    read = PAPERS["llm4msr"].read_knowledge
    dataset = read_dataset(shop)
    config = msr_config(shop, knowledge)
    told = load_meta(knowledge, dataset, "global_time")
    shuffled = read(config.model_copy(update={"data": config.data.model_copy(
        update={"shuffle_knowledge": ("users",), "shuffle_seed": 1})}), dataset)  # fmt: skip
    noise = read(msr_config(shop, knowledge, vectors="random"), dataset)
    for control in (shuffled, noise):
        np.testing.assert_array_equal(control.row_of_user, told.row_of_user)
        assert not np.allclose(control.user_vectors, told.user_vectors)
        assert not control.user_vectors[0].any()
    np.testing.assert_allclose(
        np.sort(shuffled.user_vectors[1:], axis=0), np.sort(told.user_vectors[1:], axis=0), atol=1e-6
    )
    np.testing.assert_array_equal(shuffled.scenario_vectors, told.scenario_vectors)
    assert shuffled.provenance["shuffled"] == {"what": ["users"], "seed": 1}


def test_a_run_is_trained_evaluated_and_read_back(shop: Path, knowledge: Path, tmp_path: Path) -> None:
    quiet = Console(quiet=True)
    config = msr_config(shop, knowledge)
    summary = train(config, tmp_path / "run", quiet)
    assert set(summary["validation"]) == {"auc", "gauc", "logloss"}
    report = evaluate(tmp_path / "run", quiet)
    assert {"overall", "told", "untold", "home", "search", "deals", "told:home"} <= set(report["test"])
    assert report["test"]["overall"]["n"] == report["test"]["told"]["n"] + report["test"]["untold"]["n"]
    assert set(report["z"]) == {"true", "predicted", "default"}
    with np.load(tmp_path / "run" / "scores.npz") as saved:
        home = saved["scenario"] == 1  # deals, home, search
        assert auc(saved["score:true"][home], saved["label"][home]) == pytest.approx(report["test"]["home"]["auc"])
        assert len(saved["group:told"]) == report["test"]["overall"]["n"]
    assert (tmp_path / "run" / "evaluation.html").is_file()
    again = train(config, tmp_path / "again", quiet)
    assert again["validation"] == summary["validation"]


def test_the_plain_backbone_is_told_by_the_same_slices(shop: Path, knowledge: Path, tmp_path: Path) -> None:
    quiet = Console(quiet=True)
    config = msr_config(shop, knowledge, user_level=False, scenario_level=False)
    train(config, tmp_path / "run", quiet)
    report = evaluate(tmp_path / "run", quiet)
    assert report["groups"]["n_told"] > 0
    assert "told:search" in report["test"]
    assert set(report["z"]) == {"true"}
    assert report["training"]["knowledge"] is None


def test_a_tiny_shop_can_be_overfitted(shop: Path, knowledge: Path) -> None:
    model, curriculum = _built(msr_config(shop, knowledge, embedding_size=16, width=16))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    batch = _batch(curriculum)
    for _ in range(150):
        optimiser.zero_grad()
        loss = curriculum.loss(batch)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1


def test_settings_that_say_nothing_to_a_ranker_are_refused(shop: Path) -> None:
    raw = {"name": "x", "data": {"dataset": shop}, "model": {"kind": "llm4msr"}}
    with pytest.raises(ConfigError, match=r"data\.knowledge is missing"):
        parse_config(raw, "here")
    plain = {**raw, "model": {"kind": "llm4msr", "user_level": False, "scenario_level": False}}
    assert isinstance(parse_config(plain, "here").model, LLM4MSRConfig)
    with pytest.raises(ConfigError, match=r"loss\.n_negatives says nothing to llm4msr"):
        parse_config({**plain, "loss": {"n_negatives": 3}}, "here")
    with pytest.raises(ConfigError, match="no texts of items to deal out anew"):
        parse_config({**plain, "data": {"dataset": shop, "shuffle_knowledge": ["items"]}}, "here")


def test_items_that_were_not_shown_stand_beside_what_was_drawn_anew_each_epoch(shop: Path) -> None:
    plain = {"user_level": False, "scenario_level": False}
    _, curriculum = _built(msr_config(shop, None, **plain, n_unshown_negatives=3))
    before = curriculum.data.train.candidates.copy()
    slots, epochs = before.shape[1], []
    for seed in (0, 1):
        torch.manual_seed(seed)
        curriculum.begin_epoch()
        batch = _batch(curriculum)
        assert batch.candidates.shape == batch.labels.shape == (64, slots + 3)
        assert not batch.labels[:, slots:].any()
        assert (batch.labels[:, :slots].sum(1) == 1).all()
        epochs.append(batch.candidates)
    assert torch.equal(epochs[0][:, :slots], epochs[1][:, :slots])
    assert not torch.equal(epochs[0][:, slots:], epochs[1][:, slots:])
    np.testing.assert_array_equal(curriculum.data.train.candidates, before)


def test_without_them_an_epoch_holds_what_was_shown_and_nothing_else(shop: Path) -> None:
    plain = {"user_level": False, "scenario_level": False}
    _, curriculum = _built(msr_config(shop, None, **plain, n_unshown_negatives=0))
    curriculum.begin_epoch()
    assert _batch(curriculum).candidates.shape == (64, curriculum.data.train.candidates.shape[1])
