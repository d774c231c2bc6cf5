"""Evaluation of a finished run, by the exam of its paper, and the files that carry it on.

evaluation.json       every figure, the policy it holds under, and the command that made it
evaluation.html       the same for people, self-contained
and what the exam writes: `models.retrieval_exam`
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from models import runs
from models.evaluation_page import render_page
from models.papers import PAPERS


def evaluate(folder: Path, console: Console, *, n_negatives: int = 0, negatives_seed: int = 42) -> dict[str, Any]:
    """The report of the run in `folder`, written beside it.

    Args:
        n_negatives: when above 0, also ranks each target among that many fixed random items, drawn once from
            `negatives_seed` and saved as `negatives.npz`, as the papers' tables do.

    Raises:
        RunError: not a finished run, or its exam cannot rank among negatives.
    """
    run, config = runs.load_run(folder), runs.read_run_config(folder)
    exam = PAPERS[config.model.kind].exam(config, run.dataset, run.split)
    tested = exam.test(run.model, folder, console, n_negatives, negatives_seed)
    report: dict[str, Any] = {
        "run": run.config["name"],
        "command": f"python -m models evaluate {folder.name}" + (f" --negatives {n_negatives}" if n_negatives else ""),
        "dataset": {"name": run.dataset.name, "sha256": run.dataset.digest},
        "model": run.config["model"],
        "loss": run.config["loss"],
        "seed": run.config["seed"],
        **tested.report,
        "training": json.loads((folder / runs.SUMMARY).read_bytes()),
    }
    curve = [json.loads(line) for line in (folder / runs.METRICS).read_text().splitlines()]
    runs.write_atomic(folder / "evaluation.html", render_page(report, curve, tested.plots).encode())
    runs.write_atomic(folder / "evaluation.json", json.dumps(report, indent=2).encode())
    return report
