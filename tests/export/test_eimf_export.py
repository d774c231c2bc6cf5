"""Multi-interest runs as artefacts: several queries, attention, and the LLM's phrases beside the items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from export.artefact import write_artefact
from export.graphs import EncoderGraph
from export.run import draft_of
from export.to_onnx import write_encoder
from models.config import parse_config
from models.data.dataset import read_dataset
from models.data.splits import user_disjoint
from models.evaluate import evaluate
from models.knowledge.answers_folder import AnswerSet, Checked
from models.knowledge.encoders import HashEncoder
from models.knowledge.interests import build_interests
from models.ranking import rank_cases
from models.runs import Run, load_run
from models.train import train
from service.artefact.check import check_report
from service.artefact.directory import open_artefact
from service.artefact.files import MANIFEST
from service.features.sequence import encode_sequences
from service.inference.loader import load
from service.inference.runtime import make_session

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
