"""From a finished training run to what becomes its artefact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.artefact import Draft
from export.errors import ExportError
from export.graphs import EncoderGraph
from export.parity import check_parity, torch_queries
from export.to_onnx import write_encoder
from models.contracts import RetrieverModel
from models.naming import named_phrases
from models.runs import Run
from service.artefact.files import ENCODER
from service.artefact.manifest import HISTORY_EVENTS, Evaluation, HistorySource
from service.artefact.tables import Catalogue
from service.inference.runtime import make_session


def draft_of(
    run: Run,
    *,
    name: str | None = None,
    history_source: HistorySource = "user+session",
    history_events: Sequence[str] = HISTORY_EVENTS,
    on_step: Callable[[str], None] = lambda message: None,
) -> Draft:
    """What to write for the run: its encoder with the folded item table, held to torch while it is exported.

    A run that was not evaluated has no metrics and no evaluation policy in its manifest.

    Raises:
        ExportError: the run's model is no retriever.
    """
    if not isinstance(run.model, RetrieverModel):
        raise ExportError(f"{run.path.name}: a {run.config['model']['kind']} model has no query vectors to serve")
    graph = EncoderGraph(run.model)

    def write(folder: Path) -> None:
        on_step("exporting the encoder to ONNX")
        write_encoder(graph, folder)
        on_step("comparing ONNX Runtime with torch")
        check_parity(graph, make_session(folder / ENCODER, "cpu", intra_op_threads=1), graph.spec)

    evaluation = None if run.evaluation is None else Evaluation.model_validate(_policy(run.evaluation))
    return Draft(
        name=name or str(run.config["name"]),
        paper=graph.inputs.paper,
        encoder=graph.spec,
        items=graph.items.numpy(),
        catalogue=catalogue_of(run),
        write_encoder=write,
        dataset=dataset_of(run),
        seed=run.config["seed"],
        config=without_paths(run.config),
        knowledge=run.knowledge,
        history_source=history_source,
        history_events=tuple(history_events),
        metrics={} if run.evaluation is None else _metrics(run.evaluation),
        evaluation=evaluation,
        has_attention=graph.inputs.has_attention,
        intents=graph.intent_items.numpy() if graph.inputs.has_intents else None,
        phrases=named_phrases(run.model, run.split.valid),
        reference=lambda histories: torch_queries(graph, graph.spec, [list(history) for history in histories]),
    )


def catalogue_of(run: Run) -> Catalogue:
    dataset = run.dataset
    n_items = len(dataset.item_ids)
    return Catalogue(
        item_ids=list(dataset.item_ids),
        titles=[title or None for title in dataset.item_titles()],
        categories=[category or None for category in dataset.item_categories()],
        popularity=np.bincount(run.split.train.items, minlength=n_items + 1)[1:].astype(np.int64),
        available=np.ones(n_items, np.bool_),
    )


def dataset_of(run: Run) -> dict[str, Any]:
    dataset = run.dataset
    return {
        "name": dataset.name,
        "sha256": dataset.digest,
        "split": run.split.name,
        "n_users": len(dataset.user_ids),
        "n_items": len(dataset.item_ids),
        "n_interactions": len(dataset.sequences.items),
    }


def _metrics(report: dict[str, Any]) -> dict[str, Any]:
    """Held out, by group; where answers of an LLM could be given to the model, with and without them (`answered`)."""
    answered = {"answered": report["answered"]} if "answered" in report else {}
    return {**report["test"], **answered}


def _policy(report: dict[str, Any]) -> dict[str, Any]:
    """The evaluation's policy as the manifest words it."""
    policy = report["policy"]
    return {name: policy[name] for name in Evaluation.model_fields if name in policy}


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """The resolved configuration with folders by name: where they lay on the training machine is nobody's business."""
    data = dict(config["data"])
    for key in ("dataset", "knowledge"):
        data[key] = data[key] and Path(data[key]).name
    return {**config, "data": data}
