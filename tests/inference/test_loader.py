from __future__ import annotations

from pathlib import Path

import pytest

from service.inference.loader import load
from service.inference.topk import BACKENDS, Backend
from service.metrics import Metrics
from service.registry import ServedModel


def test_a_small_catalogue_is_served_from_one_graph_unless_another_way_is_asked_for(artefact_path: Path) -> None:
    assert load(artefact_path, intra_op_threads=1, device="cpu").backend == "in-graph"


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_reproduces_the_golden_answers_and_is_named_by_the_model(
    backend: Backend, artefact_path: Path
) -> None:
    model = ServedModel(load(artefact_path, intra_op_threads=1, device="cpu", top_k=backend))
    assert (model.top_k, model.top_k_fallbacks) == (backend, 0)


def test_answers_that_could_not_be_certified_are_counted(artefact_path: Path) -> None:
    loaded = load(artefact_path, intra_op_threads=1, device="cpu")
    model, metrics = ServedModel(loaded), Metrics()
    metrics.top_k_fallbacks.models = [model]
    loaded.topk.fallbacks += 3
    assert (
        f'afterglow_top_k_fallbacks_total{{backend="in-graph",name="{model.name}",version="{model.version}"}} 3.0'
        in metrics.render().decode()
    )
