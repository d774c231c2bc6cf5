from __future__ import annotations

from pathlib import Path

import pytest

from service.inference.loader import load
from service.inference.topk import BACKENDS, Backend
from service.served_model import ServedModel


def test_a_small_catalogue_is_served_from_one_graph_unless_another_way_is_asked_for(artefact_path: Path) -> None:
    assert load(artefact_path, intra_op_threads=1, device="cpu").backend == "in-graph"


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_reproduces_the_golden_answers_and_is_named_by_the_model(
    backend: Backend, artefact_path: Path
) -> None:
    model = ServedModel(load(artefact_path, intra_op_threads=1, device="cpu", top_k=backend))
    assert (model.top_k, model.top_k_fallbacks) == (backend, 0)
