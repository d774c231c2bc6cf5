"""Multi-interest runs as artefacts: several queries, attention, and the LLM's phrases beside the items."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from export.artefact import write_artefact
from export.graphs import EncoderGraph
from export.run import draft_of
from export.to_onnx import write_encoder
from loadtest.cli import app as loadtest
from models.__main__ import app
from models.config import parse_config
from models.data.dataset import read_dataset
from models.data.splits import user_disjoint
from models.diversity_table import measure as measure_diversity
from models.diversity_table import topics_of_cases, varied_lists
from models.errors import RunError
from models.evaluate import evaluate
from models.explanation_control import measure as measure_names
from models.knowledge.answers_folder import AnswerSet, Checked
from models.knowledge.encoders import HashEncoder
from models.knowledge.interests import build_interests
from models.naming import chance_floor
from models.ranking import queries_of, rank_cases
from models.runs import Run, load_run
from models.train import train
from service.artefact.check import check_report
from service.artefact.directory import open_artefact
from service.artefact.files import MANIFEST
from service.features.diversity import diversify, n_candidates
from service.features.sequence import encode_sequences
from service.inference.loader import load
from service.inference.runtime import make_session
from service.served_model import ServedModel

RETRIEVERS = ("comirec-sa", "comirec-dr", "mind", "remi")
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def interests(dataset_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dataset = read_dataset(dataset_folder)
    split = user_disjoint(dataset)
    trained = np.flatnonzero(split.train.lengths)[::6]
    said = {dataset.user_ids[row]: [f"thing {row % 24}", "things of every kind"] for row in trained}
    folder = tmp_path_factory.mktemp("knowledge") / "eimf"
    answers = {
        name: Checked(name, texts, "some-llm", "p", "t")
        for name, texts in ((f"eimf:{dataset.name}:user:{user}", texts) for user, texts in said.items())
    }
    told = {"paper": "eimf", "dataset": {"name": dataset.name}, "split": "leave_one_out", "prompts": None}
    told |= {"models": {"some-llm": len(said)}, "prompts_digest": "digest"}
    build_interests(dataset, split, AnswerSet(answers, told), folder, HashEncoder(), QUIET)
    return folder


@pytest.fixture(scope="module", params=RETRIEVERS)
def eimf_run(
    request: pytest.FixtureRequest, dataset_folder: Path, interests: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    sizes = {"hidden_size": 8, "n_interests": 3, "max_seq_len": 5, "text_size": 6}
    config = parse_config(
        {
            "name": f"eimf-{request.param}",
            "seed": 3,
            "data": {"dataset": str(dataset_folder), "knowledge": str(interests), "split": "user_disjoint"},
            "model": {"kind": "eimf", "retriever": request.param, **sizes},
            "train": {"batch_size": 8, "max_epochs": 2, "device": "cpu"},
            "loss": {"kind": "sampled_softmax", "n_negatives": 8},
        },
        "run.toml",
    )
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(config, folder, QUIET)
    evaluate(folder, QUIET)
    return load_run(folder)


@pytest.fixture(scope="module")
def artefact(eimf_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artefact(draft_of(eimf_run), tmp_path_factory.mktemp("artefacts"))


def test_the_service_accepts_it_and_answers_as_it_was_evaluated(eimf_run: Run, artefact: Path) -> None:
    assert check_report(artefact) == []
    loaded = load(artefact, intra_op_threads=1, device="cpu")
    cases = eimf_run.split.test
    ranking = rank_cases(eimf_run.model, cases, top=10)
    histories = [cases.inputs[row] for row in range(len(cases))]
    queries = loaded.retriever.encode([history.tolist() for history in histories])
    assert queries.shape == (len(cases), 3, 8)
    for row, (indices, scores) in enumerate(loaded.topk.search(queries, 10, histories)):
        assert indices.tolist() == ranking.items[row].tolist()
        np.testing.assert_allclose(scores, ranking.scores[row], atol=1e-5)


def test_the_manifest_says_what_there_is(eimf_run: Run, artefact: Path) -> None:
    manifest = open_artefact(artefact).manifest
    assert manifest.paper == "EIMF (arXiv:2411.09410)"
    assert manifest.encoder.kind == eimf_run.config["model"]["retriever"]
    assert manifest.encoder.n_queries == 3
    attention = next(tensor for tensor in manifest.outputs if tensor.name == "attention")
    assert (attention.dtype, attention.shape) == ("float32", ["batch", 3, "length"])
    assert manifest.evaluation is not None
    assert manifest.evaluation.split == "user_disjoint"
    assert manifest.knowledge is not None
    assert manifest.knowledge["content"] == "interests"


def test_attention_of_the_graph_is_the_models(eimf_run: Run, artefact: Path) -> None:
    session = make_session(artefact / "encoder.onnx", "cpu", intra_op_threads=1)
    for batch in ([[1, 2, 3]], [[4], [1, 2, 3, 4, 5], []]):
        item_seq, seq_len = encode_sequences(batch, 5)
        given = session.run(["attention"], {"item_seq": item_seq, "seq_len": seq_len})[0]
        with torch.no_grad():
            vectors = eimf_run.model.item_table()[torch.from_numpy(item_seq)]
            expected = eimf_run.model.encode_interests(vectors, torch.from_numpy(seq_len)).attention.numpy()
        np.testing.assert_allclose(given, expected, atol=1e-5)


def test_scores_are_bit_for_bit_the_same_without_esims_weights(eimf_run: Run, artefact: Path, tmp_path: Path) -> None:
    bare: Any = load_run(eimf_run.path).model
    bare.esim = None
    graph = EncoderGraph(bare)
    np.save(tmp_path / "items.npy", graph.items.numpy())
    write_encoder(graph, tmp_path)
    assert (tmp_path / "items.npy").read_bytes() == (artefact / "items.npy").read_bytes()
    item_seq, seq_len = encode_sequences([[1, 2, 3], [7]], 5)
    queries = [
        make_session(folder / "encoder.onnx", "cpu", intra_op_threads=1).run(
            ["queries"], {"item_seq": item_seq, "seq_len": seq_len}
        )[0]
        for folder in (artefact, tmp_path)
    ]
    assert queries[0].tobytes() == queries[1].tobytes()
    names = b"".join(path.read_bytes() for path in artefact.glob("*.onnx"))
    assert b"esim" not in names


def test_phrases_stand_beside_the_items_each_text_once(eimf_run: Run, artefact: Path) -> None:
    phrases = open_artefact(artefact).phrases
    assert phrases is not None
    assert len(set(phrases.texts)) == len(phrases.texts)
    assert "things of every kind" in phrases.texts
    assert phrases.vectors.shape == (len(phrases.texts), 8)
    esim = eimf_run.model.esim
    row = esim.texts.index("things of every kind")
    with torch.no_grad():
        alone = esim.interest_texts[esim.interest_mask][row][None, None]
        placed = esim.interest_to_item(esim.attend(alone, torch.ones(1, 1, dtype=torch.bool)))[0, 0]
    at = phrases.texts.index("things of every kind")
    np.testing.assert_allclose(phrases.vectors[at], placed.numpy(), atol=1e-6)


@pytest.mark.parametrize("eimf_run", ["remi"], indirect=True)
def test_a_damaged_phrase_is_refused_and_named(eimf_run: Run, artefact: Path) -> None:
    texts = artefact / "interest_phrases.json"
    whole = texts.read_bytes()
    try:
        texts.write_text(json.dumps(["only one"]))
        assert any("interest_phrases.json" in reason for reason in check_report(artefact))
    finally:
        texts.write_bytes(whole)


def test_an_artefact_without_phrases_is_written_as_before_there_were_any(exported: Path) -> None:
    assert "interest_phrases" not in json.loads((exported / MANIFEST).read_bytes())
    assert open_artefact(exported).phrases is None


@pytest.mark.parametrize("eimf_run", ["remi"], indirect=True)
def test_the_artefact_says_from_which_cosine_on_a_phrase_names_a_query(eimf_run: Run, artefact: Path) -> None:
    phrases = open_artefact(artefact).phrases
    assert phrases is not None
    queries = queries_of(eimf_run.model, eimf_run.split.valid)
    assert phrases.similarity_floor == chance_floor(queries.reshape(-1, 8), np.array(phrases.vectors))


@pytest.mark.parametrize("eimf_run", ["remi"], indirect=True)
def test_names_of_a_run_are_held_to_shuffled_ones(eimf_run: Run, tmp_path: Path) -> None:
    out = tmp_path / "control.json"
    done = CliRunner().invoke(
        app, ["explain", str(eimf_run.path), "--count", "4", "--shuffles", "5", "--json", str(out)]
    )
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_bytes())
    assert report["n_items"] == 4 * len(eimf_run.split.test)
    assert report["named_by_phrase"] + report["named_by_category"] == pytest.approx(1)  # every item has one
    found = report["agreement"]
    assert found["n"] == round(report["named_by_phrase"] * report["n_items"])
    assert report["by_floor"][0]["named_by_phrase"] == 1
    assert report["by_floor"][0]["true"] == pytest.approx(report["by_floor"][0]["n_agree"] / report["n_items"])
    assert "| as the LLM said |" in done.output


@pytest.mark.parametrize("eimf_run", ["remi"], indirect=True)
def test_diversity_is_measured_on_the_lists_of_the_test_users(eimf_run: Run, tmp_path: Path) -> None:
    out = tmp_path / "diversity.json"
    arguments = ["diversity", str(eimf_run.path), "--count", "10", "--value", "0.5", "--value", "1", "--json", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_bytes())["rows"]
    assert [row["diversity"] for row in rows] == [0, 0.5, 1]
    evaluated = json.loads((eimf_run.path / "evaluation.json").read_bytes())["test"]["overall"]
    for metric in ("recall@10", "hr@10", "ndcg@10"):
        assert rows[0][metric] == pytest.approx(evaluated[metric])
    assert rows[0]["category_entropy"] <= rows[2]["category_entropy"] == pytest.approx(1)  # odd and even in turn
    assert "| 0.5 |" in done.output


@pytest.mark.parametrize("eimf_run", ["remi"], indirect=True)
def test_a_replay_of_the_run_folder_finds_the_evaluated_answer_served(
    eimf_run: Run, artefact: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "service", "serve", "--artefacts", str(artefact.parents[1]), "--port", "0"]
    service = subprocess.Popen(
        [*command, "--state-dir", str(tmp_path / "state")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert service.stdout is not None
        found = (re.search(r"curl -s (http://[^/]+)/", line) for line in service.stdout)
        base = next(match[1] for match in found if match)
        out = tmp_path / "replay.json"
        arguments = ["replay", "--host", base, "--expected", str(eimf_run.path), "--out", str(out)]
        done = CliRunner().invoke(loadtest, arguments)
    finally:
        service.terminate()
        service.communicate(timeout=30)
    assert done.exit_code == 0, done.output
    findings = json.loads(out.read_bytes())
    assert findings["comparison"]["users"] == len(eimf_run.split.test)
    assert findings["comparison"]["differing_users"] == 0
    assert findings["evaluation"]["split"] == "user_disjoint"
    assert set(findings["verdict"]) >= {"the file gives the figures of its evaluation"}
    assert findings["comparison"]["served"]["recall@10"] == pytest.approx(
        findings["evaluation"]["metrics"]["recall@10"]
    )


@pytest.mark.parametrize("diversity", [0.0, 0.4])
def test_the_service_chooses_the_lists_that_are_measured(eimf_run: Run, artefact: Path, diversity: float) -> None:
    cases, count = eimf_run.split.test, 5
    categories = ["", *eimf_run.dataset.item_categories()]
    ranking = rank_cases(eimf_run.model, cases, top=n_candidates(count))
    measured = varied_lists(ranking, topics_of_cases(eimf_run.model, cases, ranking, categories), count, diversity)
    served = ServedModel(load(artefact, intra_op_threads=1, device="cpu"))
    histories = [cases.inputs[row] for row in range(len(cases))]
    found = served.search("explain", [history.tolist() for history in histories], n_candidates(count), histories)
    for row, (items, scores, reading) in enumerate(found):
        chosen = diversify(scores, served.explainer.topics(reading, items), count, diversity)
        assert items[chosen].tolist() == measured[row].tolist()


def test_what_is_said_of_an_item_is_true_of_it(eimf_run: Run, artefact: Path) -> None:
    """Its query gives it its score, what weighs most is of the history, and a named phrase is near enough."""
    model = ServedModel(load(artefact, intra_op_threads=1, device="cpu"))
    phrases = model.artefact.phrases
    assert phrases is not None
    histories = [[3], [1, 2, 3, 2], [5, 6, 7, 8, 9]]
    found = model.search("explain", histories, 6, [np.empty(0, np.int64)] * 3)
    for history, (items, scores, reading) in zip(histories, found, strict=True):
        for item, score, told in zip(items, scores, model.explainer.explain(reading, history, items), strict=True):
            assert reading.queries[told.query] @ model.artefact.items[item] == pytest.approx(float(score), abs=1e-5)
            assert told.because is not None
            assert told.because.item_index in history
            assert 1 / len(history) - 1e-5 <= told.because.weight <= 1 + 1e-5  # the most of weights that sum to 1
            assert told.interest is not None
            if told.interest.similarity is None:
                assert told.interest.text == model.artefact.categories[item]
            else:
                assert told.interest.text in phrases.texts
                assert told.interest.similarity >= phrases.similarity_floor


def test_a_run_without_phrases_has_nothing_to_control(run_folder: Path) -> None:
    with pytest.raises(RunError, match="has no phrases"):
        measure_names(run_folder, count=4, depth=0, n_shuffles=2, seed=1, console=QUIET)


def test_a_diversity_that_is_none_is_refused(run_folder: Path) -> None:
    with pytest.raises(RunError, match=r"diversity is 1\.5, expected 0 to 1"):
        measure_diversity(run_folder, count=4, values=[1.5], console=QUIET)
