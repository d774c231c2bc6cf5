"""ESIM's losses, the batches, and whole trainings of EIMF and its plain retrievers."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from eimf_fakes import answers_of
from rich.console import Console

from models import runs
from models.config import EIMFConfig, parse_config
from models.data.dataset import read_dataset
from models.data.sequences import Sequences
from models.data.splits import SPLITS
from models.eimf import EIMF
from models.eimf_training import EIMFCurriculum, Prefixes, routing_spread
from models.errors import ConfigError
from models.esim import ESIM, Meant, info_nce
from models.evaluate import evaluate
from models.interests import Interests
from models.knowledge.encoders import HashEncoder
from models.knowledge.interests import InterestKnowledge, build_interests
from models.losses import hard_softmax
from models.train import train

RETRIEVERS = ("comirec-sa", "comirec-dr", "mind", "remi")
PLAIN = {"semantic_prediction_weight": 0.0, "alignment_weight": 0.0}


@pytest.fixture(scope="session", params=["user_disjoint", "leave_one_out"])
def split(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def told(cycle: Path, split: str, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    """Interests of four users of the cycle in the words of its titles."""
    dataset = read_dataset(cycle)
    folder = tmp_path_factory.mktemp("eimf") / split
    split_of = SPLITS[split](dataset)
    trained = np.flatnonzero(split_of.train.lengths)[::5]
    interests = {dataset.user_ids[row]: [f"thing number {row % 12}", f"number {(row + 2) % 12}"] for row in trained}
    build_interests(dataset, split_of, answers_of(dataset.name, interests), folder, HashEncoder(), quiet)
    return folder


@pytest.fixture(scope="session")
def config_of(make_config: Any, cycle: Path, told: Path, split: str) -> Any:
    def make(model: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **rest: Any) -> Any:
        data = {"dataset": str(cycle), "knowledge": str(told), "split": split, **rest.pop("data", {})}
        sizes = {"hidden_size": 8, "n_interests": 2, "max_seq_len": 5, "text_size": 6}
        raw = {
            "name": "eimf",
            "seed": 3,
            "data": data,
            "model": {"kind": "eimf", "retriever": "comirec-sa", **sizes, **(model or {})},
            "train": {"batch_size": 8, "max_epochs": 2, "device": "cpu", **(train or {})},
            "loss": {"kind": "sampled_softmax", "n_negatives": 8},
            **rest,
        }
        return parse_config(raw, "run.toml")

    return make


# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_holds_what_came_before_a_target() -> None:
    prefixes = Prefixes(Sequences.from_lists([[1, 2, 3, 4, 5], [6], [7, 8]]), 3, 4, torch.device("cpu"))
    assert prefixes.trainable.tolist() == [0, 2]  # a single event has nothing before it
    batch = prefixes.batch(torch.tensor([0, 2]), torch.tensor([4, 1]))
    assert batch.item_seq.tolist() == [[2, 3, 4], [0, 0, 7]]
    assert batch.seq_len.tolist() == [3, 1]
    assert batch.targets.tolist() == [5, 8]


def test_targets_are_drawn_from_the_fifth_item_on_and_each_user_comes_once() -> None:
    train_part = Sequences.from_lists([list(range(1, 8)), [11, 12, 13], list(range(21, 28))])
    prefixes = Prefixes(train_part, 20, 4, torch.device("cpu"))
    found: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
    for seed in range(60):
        batches = list(prefixes.epoch(2, torch.Generator().manual_seed(seed)))
        assert sorted(torch.cat([batch.users for batch in batches]).tolist()) == [0, 1, 2]
        for batch in batches:
            for user, target in zip(batch.users.tolist(), batch.targets.tolist(), strict=True):
                found[user].add(target)
    assert found == {0: {5, 6, 7}, 1: {13}, 2: {25, 26, 27}}


# --- losses -----------------------------------------------------------------------------------------------------------


def test_contrast_of_vectors_that_coincide_is_log_b() -> None:
    same = torch.ones(5, 3)
    assert info_nce(same, same, torch.arange(5)).item() == pytest.approx(math.log(5), abs=1e-5)


def test_users_who_share_an_interest_are_no_negatives_of_each_other() -> None:
    left, right = torch.eye(3), torch.eye(3)
    right[1] = right[0]  # the second user has the first one's interest, as its row says
    told = info_nce(left, right, torch.tensor([4, 4, 9]))
    by_hand = []
    for row, others in ((0, [2]), (1, [2]), (2, [0, 1])):
        own = (left[row] @ right[row]).item() / 0.1
        rest = [(left[row] @ right[other]).item() / 0.1 for other in others]
        by_hand.append(math.log(sum(math.exp(x) for x in [own, *rest])) - own)
    assert told.item() == pytest.approx(sum(by_hand) / 3, abs=1e-5)


def test_without_beta_hard_negatives_are_plain_ones_and_with_it_the_hardest_rules() -> None:
    table = torch.tensor([[0.0], [1.0], [2.0], [-1.0]])
    states, targets, negatives = torch.tensor([[1.0]]), torch.tensor([1]), torch.tensor([2, 3])
    plain = math.log(math.e + math.e**2 + math.e**-1) - 1
    assert hard_softmax(states, targets, table, negatives, 0.0).item() == pytest.approx(plain, abs=1e-5)
    # beta 1: weights e^2 and e^-1 over their mean.
    weights = [math.e**2, math.e**-1]
    mean = sum(weights) / 2
    weighted = sum(w / mean * e for w, e in zip(weights, [math.e**2, math.e**-1], strict=True))
    expected = math.log(math.e + weighted) - 1
    assert hard_softmax(states, targets, table, negatives, 1.0).item() == pytest.approx(expected, abs=1e-5)


def test_a_target_among_the_negatives_is_left_out() -> None:
    table = torch.tensor([[0.0], [1.0], [2.0], [-1.0]])
    states, targets = torch.tensor([[1.0]]), torch.tensor([1])
    with_it = hard_softmax(states, targets, table, torch.tensor([2, 3, 1]), 2.0)
    torch.testing.assert_close(with_it, hard_softmax(states, targets, table, torch.tensor([2, 3]), 2.0))


def test_the_routing_regulariser_is_nothing_where_all_items_weigh_alike() -> None:
    even = Interests(torch.zeros(2, 1, 2), torch.tensor([[[0.25] * 4], [[0.0, 0.0, 0.5, 0.5]]]))
    assert routing_spread(even, torch.tensor([4, 2])).item() == 0
    # All on one of four items: distance (3/4)^2 + 3 (1/4)^2 = 3/4, squared 9/16; the other user adds nothing.
    peaked = Interests(torch.zeros(2, 1, 2), torch.tensor([[[1.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 0.5, 0.5]]]))
    assert routing_spread(peaked, torch.tensor([4, 2])).item() == pytest.approx(9 / 32)


def _esim() -> ESIM:
    """Two typical users with two interests and one; users 0 and 1 inherit the first, 2 the second, 3 none."""
    knowledge = InterestKnowledge(
        title_vectors=np.array([[0, 0], [1, 0], [0, 1], [0, 0]], dtype=np.float32),  # item 3 has no title
        interest_vectors=np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32),
        texts=["a", "b", "c"],
        n_interests=np.array([2, 1]),
        exemplar_of_user=np.array([0, 0, 1, -1], dtype=np.int32),
        pca_mean=np.zeros(2, dtype=np.float32),
        pca_components=np.eye(2, dtype=np.float32),
        provenance={},
    )
    config = EIMFConfig.model_validate({"kind": "eimf", "hidden_size": 4, "text_size": 2})
    torch.manual_seed(0)
    esim = ESIM(config, knowledge)
    with torch.no_grad():
        esim.value.weight.copy_(torch.eye(2))
        esim.value.bias.zero_()
        for part in (esim.query, esim.key):
            part.weight.copy_(20 * torch.eye(2))  # each interest attends to itself
            part.bias.zero_()
    return esim


def test_the_interest_nearest_to_the_target_is_meant_and_padding_never() -> None:
    esim = _esim()
    meant = esim.meant(torch.tensor([0, 1, 2, 3, 0]), torch.tensor([1, 2, 1, 1, 3]))
    # User 3 inherits nothing, item 3 has no title.
    assert meant.known.tolist() == [True, True, True, False, False]
    # Row = typical user (from 1; 0 is nobody) x 2 + interest; the second typical user's empty slot is never chosen.
    assert meant.rows[:3].tolist() == [2, 3, 4]
    scale = float(esim.item_texts.abs().max())
    torch.testing.assert_close(meant.vectors[0], torch.tensor([scale, 0.0]), atol=1e-3, rtol=0)


def test_interests_are_attended_without_their_padding() -> None:
    esim = _esim()
    one = esim.attend(torch.tensor([[[1.0, 1.0]]]), torch.tensor([[True]]))
    padded = esim.attend(torch.tensor([[[1.0, 1.0], [9.0, 9.0]]]), torch.tensor([[True, False]]))
    torch.testing.assert_close(padded[:, :1], one)


def test_alignment_moves_both_the_query_and_the_item_and_skips_who_is_unknown() -> None:
    esim = _esim()
    queries, rows = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    users, targets = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([1, 2, 1, 1, 3])
    esim.alignment(queries, rows, targets, esim.meant(users, targets)).backward()
    for part in (queries, rows):
        assert part.grad is not None
        assert (part.grad[:3].abs().sum(1) > 0).all()
        assert (part.grad[3:] == 0).all()
    nobody = Meant(torch.zeros(2, 2), torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.bool))
    assert esim.alignment(queries[:2], rows[:2], targets[:2], nobody).item() == 0


# --- whole runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retriever", RETRIEVERS)
def test_a_tiny_set_can_be_overfitted(
    retriever: str, make_config: Any, cycle: Path, tmp_path: Path, quiet: Console
) -> None:
    config = parse_config(
        {
            "name": "plain",
            "seed": 3,
            "data": {"dataset": str(cycle)},
            "model": {"kind": "eimf", "retriever": retriever, "hidden_size": 16, "n_interests": 2, "max_seq_len": 4}
            | {"first_target": 1, **PLAIN},
            "loss": {"kind": "sampled_softmax", "n_negatives": 8},
            "train": {"batch_size": 8, "max_epochs": 70, "patience": 70, "learning_rate": 0.03, "device": "cpu"},
        },
        "run.toml",
    )
    assert train(config, tmp_path / "run", quiet)["validation"]["hr@5"] > 0.8  # the next number of the cycle


def test_a_run_is_trained_evaluated_and_loaded_again(
    config_of: Any, split: str, tmp_path: Path, quiet: Console
) -> None:
    config = config_of(model={"retriever": "remi"})
    train(config, tmp_path / "run", quiet)
    report = evaluate(tmp_path / "run", quiet)
    headline = ["recall@50", "ndcg@50"] if split == "user_disjoint" else ["hr@10", "ndcg@10"]
    assert report["headline"] == headline
    assert {*headline, "n"} <= report["test"]["overall"].keys()
    assert report["policy"]["split"] == split
    assert runs.load_run(tmp_path / "run").knowledge["content"] == "interests"  # type: ignore[index]


def test_what_is_served_does_not_read_esim(config_of: Any, tmp_path: Path, quiet: Console) -> None:
    train(config_of(), tmp_path / "run", quiet)
    model: EIMF = runs.load_run(tmp_path / "run").model
    item_seq, seq_len = torch.tensor([[0, 1, 2], [3, 4, 5]]), torch.tensor([2, 3])
    with torch.no_grad():
        before = model.encode(item_seq, seq_len)
        model.esim = None
        assert torch.equal(model.encode(item_seq, seq_len), before)


def test_the_retriever_starts_from_the_same_weights_with_esim_and_without(config_of: Any) -> None:
    models = []
    for config in (config_of(), config_of(model=PLAIN)):
        torch.manual_seed(9)
        models.append(runs.build_model(config, runs.load_inputs(config)))
    assert models[1].esim is None
    for name, value in models[1].state_dict().items():
        assert torch.equal(models[0].state_dict()[name], value), name


def _gradients(config: Any, seed: int = 4) -> dict[str, float]:
    """How much each parameter of a fresh model is asked to move by its first batch."""
    inputs = runs.load_inputs(config)
    torch.manual_seed(seed)
    model = runs.build_model(config, inputs)
    curriculum = EIMFCurriculum(config, inputs, model, torch.device("cpu"))
    torch.manual_seed(seed)
    curriculum.loss(next(curriculum.batches(torch.Generator().manual_seed(0)))).backward()
    return {name: 0.0 if p.grad is None else float(p.grad.abs().sum()) for name, p in model.named_parameters()}


def test_each_part_of_esim_is_switched_off_by_its_weight(config_of: Any) -> None:
    both = _gradients(config_of())
    assert min(value for name, value in both.items() if "key.bias" not in name) > 0  # softmax ignores a key's bias
    no_alignment = _gradients(config_of(model={"alignment_weight": 0.0}))
    assert no_alignment["esim.interest_to_item.weight"] == 0
    assert no_alignment["esim.value.weight"] > 0
    plain = _gradients(config_of(model=PLAIN))
    assert no_alignment["item_embeddings"] == pytest.approx(plain["item_embeddings"])  # prediction teaches ESIM alone
    no_prediction = _gradients(config_of(model={"semantic_prediction_weight": 0.0}))
    assert no_prediction["item_embeddings"] != pytest.approx(plain["item_embeddings"])


def test_a_step_on_the_named_rows_alone_is_the_step_on_the_whole_table(
    config_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(model={"retriever": "remi"})
    part = _gradients(config)
    whole = EIMFCurriculum._named

    def every_row(self: Any, batch: Any, negatives: torch.Tensor) -> Any:
        named = whole(self, batch, negatives)
        return named._replace(
            table=self.model.item_table(), item_seq=batch.item_seq, targets=batch.targets, negatives=negatives
        )

    monkeypatch.setattr(EIMFCurriculum, "_named", every_row)
    assert _gradients(config) == pytest.approx(part, rel=1e-4, abs=1e-6)


def test_remi_is_taught_otherwise_than_comirec(config_of: Any) -> None:
    sa = _gradients(config_of(model=PLAIN))
    neither = _gradients(config_of(model={"retriever": "remi", "hard_negatives": 0.0, "routing_weight": 0.0, **PLAIN}))
    assert neither == pytest.approx(sa)
    for change in ({"hard_negatives": 0.0}, {"routing_weight": 0.0}):
        assert _gradients(config_of(model={"retriever": "remi", **change, **PLAIN})) != pytest.approx(sa)


def test_shuffled_interests_are_recorded_and_deal_each_list_to_one_other(config_of: Any) -> None:
    straight = runs.load_inputs(config_of()).knowledge
    shuffled = runs.load_inputs(config_of(data={"shuffle_knowledge": ["exemplars"], "shuffle_seed": 5})).knowledge
    assert shuffled.provenance["shuffled"] == {"what": ["exemplars"], "seed": 5}
    pairs = set(zip(straight.exemplar_of_user.tolist(), shuffled.exemplar_of_user.tolist(), strict=True))
    assert len(pairs) == len({left for left, _ in pairs}) == len({right for _, right in pairs})
    assert any(left != right for left, right in pairs)


def test_random_interests_keep_their_distance_from_the_mean_and_nothing_else(config_of: Any) -> None:
    straight = runs.load_inputs(config_of()).knowledge
    random = runs.load_inputs(config_of(data={"shuffle_knowledge": ["interests"]})).knowledge
    assert (random.exemplar_of_user == straight.exemplar_of_user).all()
    assert (random.title_vectors == straight.title_vectors).all()
    before, after = (known.interest_vectors - straight.pca_mean for known in (straight, random))
    lengths = np.linalg.norm(before, axis=1)
    assert np.linalg.norm(after, axis=1) == pytest.approx(lengths, rel=1e-4)
    cosines = (before * after).sum(1) / lengths**2
    assert abs(cosines).max() < 0.9
    assert abs(cosines.mean()) < 0.1


def test_titles_are_dealt_among_the_items_that_have_one(config_of: Any) -> None:
    straight = runs.load_inputs(config_of()).knowledge.title_vectors
    dealt = runs.load_inputs(
        config_of(data={"shuffle_knowledge": ["titles"], "shuffle_seed": 3})
    ).knowledge.title_vectors
    assert (straight != dealt).any()
    assert (dealt[0] == 0).all()
    assert sorted(straight.tolist()) == sorted(dealt.tolist())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"kind": "emif"}}, "model: kind is unknown, expected one of llm-esr, eimf"),
        ({"model": {"hiden_size": 3}}, r"model\.hiden_size"),
        ({"model": {"hard_negatives": 2.0}}, "hard_negatives is of remi alone, comirec-sa does not read it"),
        ({"model": {"retriever": "remi"}, "loss": {"log_q": True}}, "without log_q; found sampled_softmax with log_q"),
        ({"loss": {"positions": "last"}}, r"loss\.positions says nothing to eimf"),
        ({"train": {"teachers": "epoch"}}, r"train\.teachers says nothing to eimf"),
        ({"data": {"shuffle_knowledge": ["items"]}}, "eimf has no texts of items"),
        ({"model": {"text_size": 4000}}, None),
    ],
)
def test_a_configuration_that_does_not_fit_is_named(
    config_of: Any, change: dict[str, Any], message: str | None
) -> None:
    if message is None:
        config = config_of(**change)
        with pytest.raises(ConfigError, match="text_size is 4000, the knowledge holds"):
            runs.build_model(config, runs.load_inputs(config))
        return
    with pytest.raises(ConfigError, match=message):
        config_of(**change)


def test_a_run_reads_back_as_it_was_written(config_of: Any, tmp_path: Path) -> None:
    config = config_of(model={"retriever": "remi", "hard_negatives": 2.0})
    runs.write_config(tmp_path, config)
    assert runs.read_run_config(tmp_path) == config
    assert dataclasses.is_dataclass(runs.load_inputs(config))
