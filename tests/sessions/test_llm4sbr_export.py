"""LLM4SBR as an artefact: behaviour in, queries and intents out, no answer anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from intent_fakes import PLAIN
from rich.console import Console

from export.artefact import write_artefact
from export.run import draft_of
from models.evaluate import evaluate
from models.ranking import rank_cases
from models.runs import load_run
from models.train import train
from service.artefact.onnx_file import external_tensors
from service.inference.loader import load
from service.inference.runtime import make_session


@pytest.mark.parametrize("intents", ["distilled", "localised", "stand_in"])
def test_what_is_served_is_what_was_evaluated(intents: str, taught_config: Any, tmp_path: Path, quiet: Console) -> None:
    train(taught_config({"intents": intents}, {"max_epochs": 1}), tmp_path / "run", quiet)
    evaluate(tmp_path / "run", quiet)
    run = load_run(tmp_path / "run")
    # Writing holds ONNX Runtime to torch, queries and intents, at every length, batch and padding.
    folder = write_artefact(draft_of(run, history_source="session"), tmp_path / "artefacts")
    loaded = load(folder, intra_op_threads=1, device="cpu")
    manifest = loaded.artefact.manifest
    assert (manifest.encoder.kind, manifest.encoder.n_queries) == ("sr-gnn", 1)
    assert manifest.paper == "LLM4SBR (arXiv:2402.13840)"
    assert {"behaviour", "cached"} <= manifest.metrics["answered"].keys()  # what serving without answers costs
    assert [tensor.name for tensor in manifest.inputs] == ["item_seq", "seq_len"]  # behaviour and nothing else
    assert {tensor.name: tensor.shape for tensor in manifest.outputs}["intents"] == ["batch", 2, 8]
    assert manifest.item_tables["intents"].shape == [13, 8]

    cases = run.split.test
    ranking = rank_cases(run.model, cases, filter_seen=False, top=5)
    histories = [cases.inputs[row].tolist() for row in range(len(cases))]
    nothing = [np.empty(0, np.int64)] * len(cases)
    for row, (indices, scores) in enumerate(loaded.topk.search(loaded.retriever.encode(histories), 5, nothing)):
        assert indices.tolist() == ranking.items[row].tolist()
        np.testing.assert_allclose(scores, ranking.scores[row], atol=1e-5)

    session = make_session(folder / "encoder.onnx", "cpu", intra_op_threads=1)
    item_seq, seq_len = np.array([[0, 3, 4]]), np.array([2])
    (found,) = session.run(["intents"], {"item_seq": item_seq, "seq_len": seq_len})
    expected = run.model.read_sessions(torch.from_numpy(item_seq), torch.from_numpy(seq_len)).intents
    np.testing.assert_allclose(found, torch.stack(expected, dim=1).detach().numpy(), atol=1e-5)
    files = {tensor.location for tensor in external_tensors(folder / "encoder.onnx")}
    assert files == {"items.npy", "intent_items.npy"} if intents == "localised" else files == {"items.npy"}
    table = np.load(folder / "intent_items.npy")
    np.testing.assert_allclose(table, run.model.intent_table().detach().numpy(), atol=1e-6)
    assert (table[0] == 0).all()


def test_the_plain_encoder_has_neither_intents_nor_a_table_of_them(
    taught_config: Any, tmp_path: Path, quiet: Console
) -> None:
    train(taught_config(PLAIN, {"max_epochs": 1}), tmp_path / "run", quiet)
    draft = draft_of(load_run(tmp_path / "run"), history_source="session")
    manifest = load(write_artefact(draft, tmp_path / "artefacts"), intra_op_threads=1, device="cpu").artefact.manifest
    assert [tensor.name for tensor in manifest.outputs] == ["queries"]
    assert list(manifest.item_tables) == ["items"]
    assert manifest.paper is None
