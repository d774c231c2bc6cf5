"""Session retrievers through the trainer, the exam and the export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import models
from export.artefact import write_artefact
from export.run import draft_of
from models.compare import read_ranks
from models.config import TrainConfig, read_config
from models.errors import ConfigError
from models.evaluate import evaluate
from models.ranking import rank_cases
from models.runs import load_run
from models.study_plan import read_study
from models.train import learning_rate, train
from service.inference.loader import load

ENCODERS = ("sr-gnn", "gru4rec", "sasrec", "stamp", "gce-gnn")


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_tiny_set_can_be_overfitted(encoder: str, config_of: Any, tmp_path: Path, quiet: Console) -> None:
    config = config_of(
        model={"encoder": encoder, "hidden_size": 16},
        train={"max_epochs": 30, "patience": 30, "learning_rate": 0.03},
    )
    assert train(config, tmp_path / "run", quiet)["validation"]["hr@5"] > 0.8


@pytest.mark.parametrize("encoder", ENCODERS)
def test_what_is_served_is_what_was_evaluated(encoder: str, config_of: Any, tmp_path: Path, quiet: Console) -> None:
    train(config_of(model={"encoder": encoder}), tmp_path / "run", quiet)
    report = evaluate(tmp_path / "run", quiet)
    assert report["headline"] == ["hr@20", "mrr@20"]
    assert not report["policy"]["seen_filtered"]
    ranks = read_ranks(tmp_path / "run")
    n_cases = report["test"]["overall"]["n"]
    for k in (5, 10, 20):  # every case counts, found or not
        places = 1 + ranks.ranks[ranks.ranks < k]
        assert report["test"]["overall"][f"hr@{k}"] == pytest.approx(len(places) / n_cases)
        assert report["test"]["overall"][f"mrr@{k}"] == pytest.approx((1 / places).sum() / n_cases)
        assert report["test"]["overall"][f"ndcg@{k}"] == pytest.approx((1 / np.log2(1 + places)).sum() / n_cases)

    run = load_run(tmp_path / "run")
    # Writing holds ONNX Runtime to torch at every length, batch and padding.
    draft = draft_of(run, history_source="session")
    loaded = load(write_artefact(draft, tmp_path / "artefacts"), intra_op_threads=1, device="cpu")
    manifest = loaded.artefact.manifest
    assert (manifest.encoder.kind, manifest.encoder.padding, manifest.history_source) == (encoder, "left", "session")
    assert manifest.evaluation is not None
    assert not manifest.evaluation.seen_filtered
    cases = run.split.test
    assert ranks.owners is not None
    assert ranks.owners.tolist() == cases.user_index.tolist()
    ranking = rank_cases(run.model, cases, filter_seen=False, top=5)
    histories = [cases.inputs[row].tolist() for row in range(len(cases))]
    nothing = [np.empty(0, np.int64)] * len(cases)
    for row, (indices, scores) in enumerate(loaded.topk.search(loaded.retriever.encode(histories), 5, nothing)):
        assert indices.tolist() == ranking.items[row].tolist()
        np.testing.assert_allclose(scores, ranking.scores[row], atol=1e-5)


def test_the_learning_rate_falls_to_a_tenth_every_so_many_epochs() -> None:

    config = TrainConfig(learning_rate=0.5, decay_every=3)
    assert [learning_rate(config, epoch) for epoch in (1, 3, 4, 6, 7)] == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005])
    assert learning_rate(TrainConfig(learning_rate=0.5), 100) == 0.5


def test_a_loss_that_sessions_do_not_have_is_refused(config_of: Any) -> None:
    with pytest.raises(ConfigError, match="expected full_softmax or sampled_softmax"):
        config_of(loss={"kind": "bce"})


def test_every_configuration_of_a_session_retriever_and_the_study_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AFTERGLOW_DATA", "AFTERGLOW_RUNS"):
        monkeypatch.setenv(name, "/somewhere")
    folder = Path(models.__file__).parent / "configs"
    found = [read_config(path) for path in sorted(folder.glob("*sr-gnn.toml"))]
    assert len(found) == 7
    study = read_study(folder / "studies" / "llm4sbr-plain.toml")
    assert {cell.config.model.kind for cell in study.cells} == {"session", "neighbours"}
    assert study.cells[0].name == "yoochoose-100k-published-item-knn-s42"
