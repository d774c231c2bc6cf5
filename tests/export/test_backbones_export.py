"""Every backbone and block exports: held to torch by the export itself, accepted and answered by the service."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.artefact import write_artefact
from export.run import draft_of
from models import runs
from models.config import RunConfig
from models.ranking import rank_cases
from models.runs import Run
from service.inference.loader import load

PLAIN = {"views": ["collaborative"], "collaborative_init": "random", "distillation_weight": 0.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "gru4rec": {"backbone": "gru4rec"},
    "bert4rec": {"backbone": "bert4rec"},
    "plain bert4rec with ligr blocks": {"backbone": "bert4rec", "block": "ligr", **PLAIN},
    "two encoders, pre-norm": {"share_backbone": False, "block": "pre_norm", "n_blocks": 2},
    "reference gru4rec": {"backbone": "gru4rec", "mode": "reference", **PLAIN},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_artefact_of_any_backbone_answers_as_its_evaluation(
    changes: dict[str, Any], run: Run, tmp_path: Path
) -> None:
    config = RunConfig.model_validate({**run.config, "model": {**run.config["model"], **changes}})
    torch.manual_seed(9)
    model = runs.build_model(config, runs.load_inputs(config)).eval()
    other = replace(run, model=model, config=config.model_dump(mode="json"), evaluation=None)
    loaded = load(write_artefact(draft_of(other), tmp_path), intra_op_threads=1, device="cpu")

    assert loaded.artefact.manifest.encoder.kind == config.model.backbone
    cases = run.split.test
    ranking = rank_cases(model, cases, top=5)
    histories = [cases.inputs[row] for row in range(len(cases))]
    queries = loaded.retriever.encode([history.tolist() for history in histories])
    for row, (indices, scores) in enumerate(loaded.topk.search(queries, 5, histories)):
        assert indices.tolist() == ranking.items[row].tolist()
        np.testing.assert_allclose(scores, ranking.scores[row], atol=1e-5)
