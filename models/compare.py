"""Several evaluated runs of one data set side by side, each against the first, which is their control."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import RunError
from models.metrics import paired_bootstrap

COLUMNS = ("overall", "tail_item", "head_item", "tail_user", "head_user", "distinct_times")


def compare(folders: list[Path]) -> dict[str, Any]:
    """Figures of each run and its ndcg@10 gain over the first, with a 95 % paired bootstrap interval over users.

    Raises:
        RunError: a run is not evaluated, or was evaluated on another data set, split or policy than the first.
    """
    reports = check_comparable(folders)
    control, control_ranks = reports[0], read_ranks(folders[0])[0]
    rows = []
    for folder, report in zip(folders, reports, strict=True):
        mean, low, high = paired_bootstrap(ndcg_at_10(read_ranks(folder)[0]), ndcg_at_10(control_ranks), seed=0)
        rows.append(
            {
                "run": report["run"],
                "seed": report["seed"],
                "test": report["test"],
                "without_untrained_targets": report["without_untrained_targets"],
                "gain_over_control": {"ndcg@10": mean, "low": low, "high": high},
                "training": {
                    key: report["training"][key]
                    for key in ("epochs", "best_epoch", "seconds_per_epoch", "peak_memory_mb", "n_parameters")
                },
            }
        )
    return {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version()},
        "dataset": control["dataset"],
        "policy": control["policy"],
        "groups": control["groups"],
        "control": control["run"],
        "rows": rows,
    }


def as_markdown(table: dict[str, Any]) -> str:
    """The comparison as a Markdown table: ndcg@10 by group, hr@10 overall, gain over the control."""
    groups = [group for group in COLUMNS if group in table["rows"][0]["test"]]
    head = ["run", "hr@10", *(f"ndcg@10 {group}" for group in groups), f"gain over {table['control']} (95 %)"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for row in table["rows"]:
        gain = row["gain_over_control"]
        cells = [
            row["run"],
            f"{row['test']['overall']['hr@10']:.4f}",
            *(f"{row['test'][group]['ndcg@10']:.4f}" for group in groups),
            f"{gain['ndcg@10']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    sizes = ", ".join(f"{group} {table['rows'][0]['test'][group]['n']:,}" for group in groups)
    return "\n".join([*lines, "", f"Test users: {sizes}."])


def check_comparable(folders: list[Path]) -> list[dict[str, Any]]:
    """Reports of the runs; `RunError` if one was evaluated on other terms than the first."""
    reports = [read_report(folder) for folder in folders]
    for folder, report in zip(folders, reports, strict=True):
        for key in ("dataset", "policy", "groups"):
            ours, theirs = report[key], reports[0][key]
            if key == "policy":  # how much of a history a model reads is the model's, not the protocol's
                ours, theirs = ({k: v for k, v in p.items() if k != "history_length"} for p in (ours, theirs))
            if ours != theirs:
                raise RunError(
                    f"{folder}: its {key} is {ours}, {folders[0]} has {theirs}; they cannot stand in one table"
                )
    return reports


def read_report(folder: Path) -> dict[str, Any]:
    """The evaluation of a run; `RunError` if it has none."""
    path = folder / "evaluation.json"
    if not path.is_file():
        raise RunError(f"{folder}: is not evaluated, run `python -m models evaluate {folder.name}` first")
    report: dict[str, Any] = json.loads(path.read_bytes())
    return report


def read_ranks(folder: Path, protocol: str = "test") -> tuple[NDArray[np.int64], dict[str, NDArray[np.bool_]]]:
    """0-based ranks of the test targets, and which of them are in each group.

    Args:
        protocol: `test` for the whole catalogue, `sampled` for fixed negatives.
    """
    with np.load(folder / "ranks.npz") as saved:
        groups = {name.removeprefix("group:"): saved[name] for name in saved.files if name.startswith("group:")}
        ranks: NDArray[np.int64] = saved["ranks"]
    if protocol == "sampled":
        with np.load(folder / "sampled_ranks.npz") as saved:
            ranks = saved["ranks"]
    return ranks, groups


def ndcg_at_10(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """ndcg@10 of each case."""
    return np.where(ranks < 10, 1 / np.log2(ranks + 2.0), 0.0)


def hit_at_10(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """hr@10 of each case."""
    return (ranks < 10).astype(np.float64)
