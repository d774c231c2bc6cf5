from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from models import runs
from models import train as training
from models.__main__ import app
from models.batches import TrainBatch, TrainingHistories, n_batches
from models.batches import compact as compact_rows
from models.compare import as_markdown, compare
from models.config import parse_config
from models.data.sequences import Sequences
from models.errors import ConfigError, RunError
from models.evaluate import evaluate
from models.llm_esr_training import LLMESRCurriculum
from models.losses import Negatives
from models.train import train


def test_a_batch_pairs_every_item_with_the_one_after_it() -> None:
    histories = TrainingHistories(Sequences.from_lists([[1, 2, 3, 4], [5], [], [6, 7]]), 2, torch.device("cpu"), None)
    assert histories.trainable.tolist() == [0, 3]
    batch = histories.batch(torch.tensor([0, 3]))
    assert batch.item_seq.tolist() == [[2, 3], [0, 6]]  # the newest max_seq_len inputs
    assert batch.targets.tolist() == [[3, 4], [0, 7]]
    assert batch.seq_len.tolist() == [2, 1]


def test_an_epoch_holds_every_trainable_user_once() -> None:
    sequences = Sequences.from_lists([[1] * (2 + n % 7) for n in range(101)])
    histories = TrainingHistories(sequences, 5, torch.device("cpu"), None)
    batches = list(histories.epoch(3, torch.Generator().manual_seed(0)))
    assert sorted(torch.cat([batch.users for batch in batches]).tolist()) == list(range(101))
    assert len(batches) == n_batches(101, 3)


PARTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sampled softmax": ({}, {"kind": "sampled_softmax"}),
    "bce": ({}, {"kind": "bce"}),
    "popular negatives, ligr": ({"block": "ligr"}, {"negatives": "popular", "log_q": True}),
    "full softmax, gru4rec": ({"backbone": "gru4rec", "n_blocks": 1}, {"kind": "full_softmax"}),
    # Histories longer than the window, so that the position of the mask token is one that training has seen.
    "bert4rec": ({"backbone": "bert4rec", "max_seq_len": 3}, {"kind": "full_softmax"}),
}


@pytest.mark.parametrize(("model", "loss"), PARTS.values(), ids=PARTS.keys())
def test_a_tiny_set_can_be_overfitted(
    model: dict[str, Any], loss: dict[str, Any], make_config: Any, tmp_path: Path, quiet: Console
) -> None:
    config = make_config(
        model={"hidden_size": 12, **model},
        train={"max_epochs": 120, "patience": 20, "learning_rate": 0.02, "teachers": "epoch"},
        loss={"n_negatives": 8, **loss},
    )
    summary = train(config, tmp_path / "run", quiet)
    assert summary["validation"]["hr@5"] > 0.9  # the next number of the cycle, among 12 items


@pytest.mark.parametrize("backbone", ["sasrec", "bert4rec"])
def test_a_step_on_the_named_rows_alone_is_the_step_on_the_whole_table(
    backbone: str, make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = []
    for is_compact in (True, False):
        # Nothing is replaced at random, so the two differ in nothing but the rows that are looked at.
        monkeypatch.setattr(torch, "rand", lambda *shape, **kwargs: torch.full(*shape, 0.5) if shape[0] else 0)
        monkeypatch.setattr(LLMESRCurriculum, "_is_compact", lambda self, batch, answer=is_compact: answer)
        trainer = training._Trainer(make_config(model={"backbone": backbone}), tmp_path)
        curriculum: Any = trainer.curriculum
        trainer.model.train()
        curriculum.negatives.draw = lambda n: Negatives(torch.tensor([3, 9, 9]), torch.zeros(3))
        loss = trainer._step(curriculum.histories.batch(curriculum.histories.trainable[:5]))
        after.append((loss, trainer.model.item_embeddings, trainer.model.adapter[1].weight))
    for one, other in zip(*after, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_a_batch_and_its_negatives_are_renumbered_to_the_items_they_name() -> None:
    batch = TrainBatch(torch.tensor([8]), torch.tensor([[0, 7, 4]]), torch.tensor([[0, 4, 9]]), torch.tensor([2]))
    items, again, others = compact_rows(batch, torch.tensor([5, 9]))
    assert items.tolist() == [0, 4, 5, 7, 9]
    assert again.item_seq.tolist() == [[0, 3, 1]]
    assert again.targets.tolist() == [[0, 1, 4]]
    assert others.tolist() == [2, 4]


def test_cached_teachers_are_the_states_at_the_start_of_the_epoch(
    make_config: Any, tmp_path: Path, quiet: Console
) -> None:
    curriculum: Any = training._Trainer(make_config(train={"teachers": "epoch"}), tmp_path).curriculum
    table, similar = curriculum.model.item_table().detach(), curriculum.similar_users[:4]
    anew = curriculum._teachers(similar)
    curriculum.begin_epoch()
    assert curriculum.teacher_states is not None
    torch.testing.assert_close(curriculum._teachers(similar), anew, atol=1e-6, rtol=0)
    batch = curriculum.histories.batch(similar[0])
    queries = curriculum.model.eval().encode(table, batch.item_seq, batch.seq_len)[:, 0]
    torch.testing.assert_close(anew[0], queries, atol=1e-6, rtol=0)


def test_a_seed_gives_the_figures_it_has_always_given(make_config: Any, tmp_path: Path, quiet: Console) -> None:
    # Losses of three epochs, written down before papers were told apart: a change of what is drawn, or when, shows.
    # They are of the cycle, hash knowledge and 4 negatives; 1e-4 leaves room for another machine's rounding.
    known = {
        "base": ({"dropout": 0.3}, {}, {}, [1.8481, 1.8226, 1.6826]),
        "cached teachers": (
            {"block": "ligr", "dropout": 0.2},
            {"teachers": "epoch"},
            {"log_q": True},
            [2.6667, 2.4783, 2.7848],
        ),
        "bert4rec": ({"backbone": "bert4rec"}, {}, {"kind": "full_softmax"}, [2.6366, 2.5340, 2.5441]),
    }
    for name, (model, how, loss, expected) in known.items():
        train(make_config(model=model, train=how, loss={"n_negatives": 4, **loss}), tmp_path / name, quiet)
        lines = (tmp_path / name / runs.METRICS).read_text().splitlines()
        assert [json.loads(line)["loss"] for line in lines] == pytest.approx(expected, abs=1e-4), name


def test_a_run_killed_and_resumed_ends_with_the_same_weights(
    make_config: Any, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(model={"dropout": 0.3}, train={"max_epochs": 4})
    train(config, tmp_path / "whole", quiet)

    record = training._Trainer._record

    def killed_in_epoch_three(self: Any, line: dict[str, Any]) -> None:
        if self.epoch == 3:
            raise KeyboardInterrupt
        record(self, line)

    with monkeypatch.context() as patch:
        patch.setattr(training._Trainer, "_record", killed_in_epoch_three)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "resumed", quiet)
    with pytest.raises(RunError, match="not finished"):
        runs.load_run(tmp_path / "resumed")
    train(config, tmp_path / "resumed", quiet)

    whole, resumed = runs.load_run(tmp_path / "whole"), runs.load_run(tmp_path / "resumed")
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, atol=0, rtol=0, msg=name)
    assert not (tmp_path / "resumed" / runs.CHECKPOINT).exists()


def test_a_folder_of_another_configuration_is_not_overwritten(make_config: Any, tmp_path: Path, quiet: Console) -> None:
    train(make_config(train={"max_epochs": 1}), tmp_path / "run", quiet)
    with pytest.raises(RunError, match="another configuration"):
        train(make_config(train={"max_epochs": 2}), tmp_path / "run", quiet)


def test_evaluation_reports_groups_and_writes_what_the_service_is_held_to(
    make_config: Any, tmp_path: Path, quiet: Console
) -> None:
    folder = tmp_path / "run"
    train(make_config(train={"max_epochs": 2}), folder, quiet)
    report = evaluate(folder, quiet, n_negatives=4)

    assert report["test"]["overall"]["n"] == 24
    assert report["test"]["tail_item"]["n"] + report["test"]["head_item"]["n"] == 24
    assert report["sampled"]["test"]["overall"]["hr@5"] == 1.0  # 1 target + 4 negatives
    assert report == json.loads((folder / "evaluation.json").read_bytes())
    page = (folder / "evaluation.html").read_text()
    assert page.count("<svg") == 3
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://matplotlib.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "")

    predictions = pq.read_table(folder / "predictions.parquet").to_pylist()
    first = next(row for row in predictions if row["user_id"] == "u00")
    assert first["history"] == ["i00", "i01", "i02", "i03"]
    assert first["target"] == "i04"
    assert not set(first["items"]) & set(first["history"]) - {""} or np.isneginf(first["scores"]).any()
    assert report["test"]["overall"]["hr@5"] == pytest.approx(
        np.mean([row["target"] in row["items"][:5] for row in predictions])
    )


def test_a_run_on_the_encoder_for_tests_warns_and_records_it(make_config: Any, tmp_path: Path) -> None:
    console = Console(record=True, width=200, file=io.StringIO())
    summary = train(make_config(train={"max_epochs": 1}), tmp_path / "run", console)
    assert "encoder for tests" in console.export_text()
    assert summary["knowledge"]["test_only"] is True


def test_a_model_that_needs_knowledge_says_so(make_config: Any, cycle: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.knowledge is missing"):
        parse_config({"name": "x", "data": {"dataset": str(cycle)}}, "run.toml")


def test_an_unknown_key_is_named(cycle: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.toml.*\n.*model\.hiden_size"):
        parse_config({"name": "x", "data": {"dataset": str(cycle)}, "model": {"hiden_size": 3}}, "run.toml")


def test_runs_side_by_side_show_the_gain_over_the_first(make_config: Any, tmp_path: Path, quiet: Console) -> None:
    for name, epochs in (("short", 1), ("long", 3)):
        train(make_config(train={"max_epochs": epochs}, name=name), tmp_path / name, quiet)
        evaluate(tmp_path / name, quiet)
    table = compare([tmp_path / "short", tmp_path / "long"])

    own, gain = (row["gain_over_control"] for row in table["rows"])
    assert own["ndcg@10"] == own["low"] == own["high"] == 0
    short, long = (row["test"]["overall"]["ndcg@10"] for row in table["rows"])
    assert gain["ndcg@10"] == pytest.approx(long - short)
    assert "| long |" in as_markdown(table)


def test_a_run_that_is_not_evaluated_cannot_be_compared(make_config: Any, tmp_path: Path, quiet: Console) -> None:
    train(make_config(train={"max_epochs": 1}), tmp_path / "run", quiet)
    with pytest.raises(RunError, match="not evaluated"):
        compare([tmp_path / "run"])


def test_ctrl_c_says_what_is_kept(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cycle: Path, cycle_knowledge: Path
) -> None:
    toml = tmp_path / "run.toml"
    toml.write_text(f'name = "cycle"\n[data]\ndataset = "{cycle}"\nknowledge = "{cycle_knowledge}"\n')

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training._Trainer, "__init__", interrupted)
    result = CliRunner().invoke(app, ["train", str(toml), "--out", str(tmp_path / "run")])
    assert result.exit_code == 130
    assert "interrupted: finished epochs are kept" in result.stderr
    assert not (tmp_path / "run").exists()
