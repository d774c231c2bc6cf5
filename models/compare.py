"""Several evaluated runs of one data set side by side, each against the first, which is their control."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import RunError
from models.metrics import Rows, case_values, paired_bootstrap

COLUMNS = ("overall", "tail_item", "head_item", "tail_user", "head_user", "distinct_times")


@dataclass(frozen=True, eq=False)
class Ranks:
    """Where the test targets of a run landed; every array has an entry for each of them."""

    ranks: NDArray[np.int64]  # 0-based
    rows: Rows
    groups: dict[str, NDArray[np.bool_]]
    owners: NDArray[np.int64] | None = None  # whose each is, where one session has several cases of one target

    def owners_in(self, group: str = "overall") -> NDArray[np.int64] | None:
        """Owners of what `values` gives; None: each is its own."""
        return self.owners if self.owners is None or group == "overall" else self.owners[self.groups[group]]

    def values(self, metric: str, group: str = "overall") -> NDArray[np.float64]:
        """`metric` of each case that has a target in `group`."""
        if group == "overall":
            return case_values(metric, self.ranks, self.rows)
        member = self.groups[group]
        return case_values(metric, self.ranks[member], None if self.rows is None else self.rows[member])


def compare(folders: list[Path]) -> dict[str, Any]:
    """Figures of each run and its gain over the first, with a 95 % paired bootstrap interval over users.

    Runs are told by the two metrics of their split: hr@10 and ndcg@10, or of several targets recall@50 and ndcg@50.

    Raises:
        RunError: a run is not evaluated, or was evaluated on another data set, split or policy than the first.
    """
    reports = check_comparable(folders)
    control, control_ranks = reports[0], read_ranks(folders[0])
    _, by_place = headline(control)
    rows = []
    for folder, report in zip(folders, reports, strict=True):
        mean, low, high = paired_bootstrap(
            read_ranks(folder).values(by_place), control_ranks.values(by_place), seed=0, owners=control_ranks.owners
        )
        rows.append(
            {
                "run": report["run"],
                "seed": report["seed"],
                "test": report["test"],
                "without_untrained_targets": report["without_untrained_targets"],
                "gain_over_control": {by_place: mean, "low": low, "high": high},
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
        "headline": list(headline(control)),
        "control": control["run"],
        "rows": rows,
    }


def as_markdown(table: dict[str, Any]) -> str:
    """The comparison as a Markdown table: how many targets are found, how high they stand by group, and the gain."""
    found, by_place = table["headline"]
    groups = [group for group in COLUMNS if group in table["rows"][0]["test"]]
    head = ["run", found, *(f"{by_place} {group}" for group in groups), f"gain over {table['control']} (95 %)"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for row in table["rows"]:
        gain = row["gain_over_control"]
        cells = [
            row["run"],
            f"{row['test']['overall'][found]:.4f}",
            *(f"{row['test'][group][by_place]:.4f}" for group in groups),
            f"{gain[by_place]:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]",
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


def headline(report: dict[str, Any]) -> tuple[str, str]:
    """The two metrics a report is told by: how many targets are found, and how high they stand."""
    found, by_place = report.get("headline", ("hr@10", "ndcg@10"))  # which reports did not say at first
    return found, by_place


def read_ranks(folder: Path, protocol: str = "test") -> Ranks:
    """0-based ranks of the test targets, which case each belongs to, and which of them are in each group.

    Args:
        protocol: `test` for the whole catalogue, `sampled` for fixed negatives.
    """
    with np.load(folder / "ranks.npz") as saved:
        groups = {name.removeprefix("group:"): saved[name] for name in saved.files if name.startswith("group:")}
        ranks: NDArray[np.int64] = saved["ranks"]
        rows: Rows = saved["cases"] if "cases" in saved.files else None
        owners: Rows = saved["owners"] if "owners" in saved.files else None
    if protocol == "sampled":
        with np.load(folder / "sampled_ranks.npz") as saved:
            ranks = saved["ranks"]
    return Ranks(ranks, rows, groups, owners)
