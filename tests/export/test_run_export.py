from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import export.run
from export.artefact import write_artefact
from export.errors import ParityError
from export.run import draft_of
from models.ranking import rank_cases
from models.runs import Run
from service.artefact.check import check_report
from service.artefact.directory import open_artefact
from service.artefact.onnx_file import ExternalTensor, external_tensors
from service.inference.loader import load


def test_an_exported_run_is_accepted_by_the_service(exported: Path) -> None:
    assert check_report(exported) == []
    assert exported.parent.name == "cycle"


def test_the_served_answer_is_the_evaluated_answer(exported: Path, run: Run) -> None:
    loaded = load(exported, intra_op_threads=1, device="cpu")
    cases = run.split.test
    ranking = rank_cases(run.model, cases, top=10)
    histories = [cases.inputs[row] for row in range(len(cases))]
    queries = loaded.retriever.encode([history.tolist() for history in histories])
    for row, (indices, scores) in enumerate(loaded.topk.search(queries, 10, histories)):
        assert indices.tolist() == ranking.items[row].tolist()
        np.testing.assert_allclose(scores, ranking.scores[row], atol=1e-5)


def test_the_manifest_says_where_the_model_comes_from(exported: Path, run: Run) -> None:
    manifest = open_artefact(exported).manifest
    assert manifest.paper == "LLM-ESR (arXiv:2405.20646)"
    assert manifest.encoder.model_dump(exclude_none=True) == {
        "kind": "sasrec",
        "padding": "left",
        "mode": "clean",
        "max_seq_len": 5,
        "dim": 16,
        "n_queries": 1,
        "minimum_history": 1,
    }
    assert manifest.seed == 3
    assert manifest.dataset == {
        "name": "cycle",
        "sha256": run.dataset.digest,
        "split": "leave_one_out",
        "n_users": 30,
        "n_items": 24,
        "n_interactions": len(run.dataset.sequences.items),
    }
    assert manifest.knowledge is not None
    assert manifest.history_source == "user+session"
    assert manifest.golden.cases == ["empty", "short", "exact", "over-long"]


def test_the_manifest_carries_the_evaluation_and_its_policy(exported: Path, run: Run) -> None:
    manifest = open_artefact(exported).manifest
    assert run.evaluation is not None
    assert manifest.metrics == run.evaluation["test"]
    assert {"overall", "tail_item"} <= manifest.metrics.keys()
    assert manifest.evaluation is not None
    assert manifest.evaluation.model_dump() == {
        "split": "leave_one_out",
        "seen_filtered": True,
        "repeats": "a target already in the history counts as a miss",
        "dropped_targets": {},
        "tie_rule": "lowest item_id",
        "history_length": 5,
    }


def test_a_run_that_was_not_evaluated_has_no_policy(run: Run) -> None:
    bare = Run(run.path, run.config, run.model, run.dataset, run.split, None, None)
    draft = draft_of(bare, name="other", history_source="session")
    assert (draft.name, draft.history_source, draft.metrics, draft.evaluation) == ("other", "session", {}, None)


def test_the_catalogue_has_training_counts_titles_and_categories(exported: Path, run: Run) -> None:
    artefact = open_artefact(exported)
    # User n walks from item n for 4 + n % 5 steps; the last two are held out.
    counts = Counter((user + step) % 24 for user in range(30) for step in range(2 + user % 5))
    assert artefact.popularity[1:].tolist() == [counts[item] for item in range(24)]
    assert artefact.item_ids[1:3] == ["i00", "i01"]
    assert artefact.titles[1:3] == [None, "thing 1"]
    assert artefact.categories[1:3] == ["even", "odd"]
    assert artefact.available[1:].all()


def test_the_look_up_table_of_the_graph_is_items_npy(exported: Path, run: Run) -> None:
    (table,) = external_tensors(exported / "encoder.onnx")
    assert table == ExternalTensor("items", "items.npy", 128, 25 * 16 * 4)
    np.testing.assert_array_equal(np.load(exported / "items.npy"), run.model.item_table().detach().numpy())


def test_no_path_of_the_training_machine_is_in_the_artefact(exported: Path, run: Run) -> None:
    config = open_artefact(exported).manifest.config
    assert {key: config["data"][key] for key in ("dataset", "knowledge")} == {"dataset": "cycle", "knowledge": "hashed"}
    foreign = [str(run.path.parent), str(Path(export.run.__file__).parents[1])]
    for file in exported.iterdir():
        content = file.read_bytes()
        assert not [path for path in foreign if path.encode() in content], file.name


def test_a_graph_that_is_not_the_model_is_not_published(
    run: Run, tmp_path: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_encoder(graph: object, folder: Path) -> None:
        # The encoder of the same model, reading only what its own exporter wrote: shift one weight.
        import onnx
        from onnx import numpy_helper

        model = onnx.load(exported / "encoder.onnx", load_external_data=False)
        weight = next(w for w in model.graph.initializer if w.name.endswith("norm.bias"))
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(0.01), weight.name))
        onnx.save(model, folder / "encoder.onnx")

    monkeypatch.setattr(export.run, "write_encoder", other_encoder)
    with pytest.raises(ParityError, match="ONNX Runtime and torch differ by"):
        write_artefact(draft_of(run), tmp_path)
    assert list(tmp_path.iterdir()) == []
