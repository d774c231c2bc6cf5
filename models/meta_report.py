"""What an LLM's knowledge of scenarios became: how alike its vectors and their layers are, and what these move.

meta_layers.json    the figures
meta_layers.html    the same for people, with a plot of each similarity
"""

from __future__ import annotations

import html
import io
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from models import runs
from models.config import LLM4MSRConfig
from models.errors import RunError
from models.llm4msr import LLM4MSR
from models.ranker_examples import Requests, ranking_data

_MOMENTS = 2_000  # of the test, whose scores are looked at


def describe_meta_layers(folder: Path) -> dict[str, Any]:
    """Cosines between scenarios of LLM vectors and of generated layers, and how far those layers move scores.

    Written beside the run as well.

    Raises:
        RunError: the run is not finished, or its model has no scenario level.
    """
    run, config = runs.load_run(folder), runs.read_run_config(folder)
    model, names = run.model, list(run.dataset.scenario_names)
    if not isinstance(model, LLM4MSR) or model.scenario_level is None:
        raise RunError(f"{folder}: has no layers that are generated for scenarios")
    assert isinstance(config.model, LLM4MSRConfig)
    level = model.scenario_level
    with torch.no_grad():
        layers = level.generated()
        similar = {"LLM vectors, centred": _cosines(level.vectors)}
        for place, (weight, bias) in enumerate(layers, start=1):
            similar[f"generated layer {place}"] = _cosines(torch.cat([weight.flatten(1), bias], dim=1))
        settings = config.model
        data = ranking_data(
            config.data.dataset,
            run.dataset,
            run.split,
            settings.max_seq_len,
            settings.n_test_negatives,
            settings.negatives_seed,
        )
        moved = {
            name: _moved(model, data.test, names, place)
            for place, name in enumerate(names)
            if (data.test.scenario_index == place).any()
        }
    report = {
        "run": config.name,
        "scenarios": names,
        "similarity": {what: matrix.round(4).tolist() for what, matrix in similar.items()},
        "moved": moved,
    }
    runs.write_atomic(folder / "meta_layers.json", json.dumps(report, indent=2).encode())
    runs.write_atomic(folder / "meta_layers.html", _page(report).encode())
    return report


def as_lines(report: dict[str, Any], one: str | None, other: str | None) -> list[str]:
    """The report as text: of two scenarios, or of every pair.

    Raises:
        RunError: a scenario is unknown.
    """
    names: list[str] = report["scenarios"]
    for name in (one, other):
        if name is not None and name not in names:
            raise RunError(f"scenario '{name}' is unknown, expected one of {', '.join(names)}")
    pairs = [
        (a, b)
        for a in range(len(names))
        for b in range(a + 1, len(names))
        if {one, other} <= {names[a], names[b], None}
    ]
    lines = []
    for a, b in pairs:
        lines.append(f"{names[a]} and {names[b]}")
        lines += [f"  {what:24} cosine {matrix[a][b]:+.4f}" for what, matrix in report["similarity"].items()]
    lines.append("What the scenario's layers add to a logit, on test candidates")
    for name, found in report["moved"].items():
        if name in (one, other) or (one is None and other is None):
            lines.append(
                f"  {name:24} mean {found['mean']:+.4f}, spread {found['std']:.4f} of the logit's {found['of']:.4f}; "
                f"with the layers of {found['swapped_with']} {found['swapped_std']:.4f} away"
            )
    return lines


def _cosines(vectors: torch.Tensor) -> NDArray[np.float64]:
    """(S, S) of rows (S, n); a row of zeros is like nothing."""
    rows = vectors.double()
    unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    found: NDArray[np.float64] = (unit @ unit.T).numpy()
    return found


def _moved(model: LLM4MSR, requests: Requests, names: list[str], scenario: int) -> dict[str, Any]:
    """What the scenario level adds to the logits of moments of a scenario, and with another scenario's layers."""
    assert model.scenario_level is not None
    at = np.flatnonzero(requests.scenario_index == scenario)[:_MOMENTS]
    columns = (requests.item_seq, requests.seq_len, requests.scenario_index, requests.candidates)
    item_seq, seq_len, index, candidates = (torch.as_tensor(column[at]) for column in columns)
    users, filled = torch.as_tensor(requests.user_index[at]), candidates > 0
    history = model.rows(item_seq)
    features = model.features(history, seq_len, model.rows(candidates), index)
    if model.user_level is not None:
        features = model.user_level(features, model.z_of(users, history, seq_len, "true"))
    added = model.scenario_level(features, index)[filled]
    whole = model.backbone(features, index, filled)[filled] + added
    other = (scenario + 1) % model.n_scenarios
    swapped = model.scenario_level(features, torch.full_like(index, other))[filled]
    return {
        "n_candidates": len(added),
        "mean": added.mean().item(),
        "std": added.std().item(),
        "of": whole.std().item(),
        "swapped_with": names[other],
        "swapped_std": (swapped - added).std().item(),
    }


def _page(report: dict[str, Any]) -> str:
    names, similar = report["scenarios"], report["similarity"]
    figure = Figure(figsize=(3.4 * len(similar), 3.2), layout="constrained")
    for axes, (what, matrix) in zip(np.atleast_1d(figure.subplots(1, len(similar))), similar.items(), strict=True):
        axes.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
        axes.set(title=what, xticks=range(len(names)), yticks=range(len(names)), xticklabels=names, yticklabels=names)
        for row in range(len(names)):
            for column in range(len(names)):
                axes.text(column, row, f"{matrix[row][column]:.2f}", ha="center", va="center", fontsize=8)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "afterglow"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    title = html.escape(f"What scenarios are told apart by in {report['run']}")
    lines = html.escape("\n".join(as_lines(report, None, None)))
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        f"<h1>{title}</h1><figure>{svg[svg.index('<svg') :]}</figure><pre>{lines}</pre>"
    )
