"""How much better one ranker orders held-out candidates than another: differences with paired bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import RunError
from models.ranker_exam import SCORES
from models.ranker_metrics import WeightedAUC, entry_losses, grouped_auc

METRICS: Final = ("auc", "gauc", "logloss")
N_DRAWS: Final = 200
# Of how often each user was drawn (n_users,): a metric of the runs' entries.
Figure = Callable[[NDArray[np.float64]], float]


@dataclass(frozen=True, eq=False)
class Entries:
    """Candidates of a run's test moments, one after another."""

    users: NDArray[np.int64]
    scenarios: NDArray[np.int64]
    labels: NDArray[np.int8]
    scores: NDArray[np.float32]
    groups: dict[str, NDArray[np.bool_]]

    def figure(self, metric: str, group: str) -> Figure:
        """`metric` of a group, as the exam defines it, under any weights of users."""
        here = self.groups[group]
        users, scenarios = self.users[here], self.scenarios[here]
        labels, scores = self.labels[here], self.scores[here]
        if metric == "auc":
            parts = []
            for scenario in np.unique(scenarios):
                inside = scenarios == scenario
                parts.append((WeightedAUC(scores[inside], labels[inside]), users[inside]))
            return lambda times: _mean([auc(times[who]) for auc, who in parts])
        if metric == "gauc":
            n_scenarios = int(scenarios.max(initial=0)) + 1
            pairs, values, sizes = grouped_auc(scores, labels, users * n_scenarios + scenarios)
            return lambda times: _weighted(values, sizes * times[pairs // n_scenarios])
        losses = entry_losses(scores, labels)
        return lambda times: _weighted(losses, times[users])


def read_entries(folder: Path, choice: str = "true") -> Entries:
    """What the exam wrote of a run, scored with one choice of z."""
    with np.load(folder / SCORES) as saved:
        moments = saved["moment"]
        return Entries(
            users=saved["user"],
            scenarios=saved["scenario"],
            labels=saved["label"],
            scores=saved[f"score:{choice}"],
            groups={
                name.removeprefix("group:"): saved[name][moments] for name in saved.files if name.startswith("group:")
            },
        )


def score_gains(
    ours: tuple[Path, ...], theirs: tuple[Path, ...], choices: tuple[str, str] = ("true", "true")
) -> dict[str, dict[str, dict[str, float]]]:
    """Difference of each metric by group, with a 95 % interval: {group: {metric: {absolute, low, high}}}.

    Users are resampled, the same in both; with several runs, of paired seeds, seeds are drawn anew too.

    Args:
        choices: of z, ours and theirs.

    Raises:
        RunError: two runs were judged on other candidates.
    """
    one = [read_entries(folder, choices[0]) for folder in ours]
    other = [read_entries(folder, choices[1]) for folder in theirs]
    for folder, entries in zip((*ours, *theirs), (*one, *other), strict=True):
        if not (np.array_equal(entries.users, one[0].users) and np.array_equal(entries.labels, one[0].labels)):
            raise RunError(f"{folder}: was judged on other candidates than {ours[0]}")
    return {group: {metric: _interval(one, other, metric, group) for metric in METRICS} for group in one[0].groups}


def z_gains(folders: tuple[Path, ...]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """What the same runs gain by reading another z: {"predicted over default": as `score_gains` gives it, ...}."""
    pairs = (("predicted", "default"), ("true", "default"), ("true", "predicted"))
    return {f"{ours} over {theirs}": score_gains(folders, folders, (ours, theirs)) for ours, theirs in pairs}


def _interval(one: list[Entries], other: list[Entries], metric: str, group: str) -> dict[str, Any]:
    pairs = [(a.figure(metric, group), b.figure(metric, group)) for a, b in zip(one, other, strict=True)]
    n_users = int(one[0].users.max(initial=-1)) + 1
    present = np.unique(one[0].users[one[0].groups[group]])
    if not len(present):
        return {"absolute": float("nan"), "low": float("nan"), "high": float("nan")}

    def gap(times: NDArray[np.float64], seeds: NDArray[np.int64]) -> float:
        return float(np.mean([pairs[seed][0](times) - pairs[seed][1](times) for seed in seeds]))

    rng = np.random.default_rng(0)
    draws = []
    for _ in range(N_DRAWS):
        times = np.bincount(rng.choice(present, len(present)), minlength=n_users).astype(np.float64)
        draws.append(gap(times, rng.integers(0, len(pairs), len(pairs))))
    everyone = np.bincount(present, minlength=n_users).astype(np.float64)
    low, high = np.nanpercentile(draws, [2.5, 97.5]) if not np.isnan(draws).all() else (float("nan"),) * 2
    return {"absolute": gap(everyone, np.arange(len(pairs))), "low": float(low), "high": float(high)}


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _weighted(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    total = weights.sum()
    return float((values * weights).sum() / total) if total else float("nan")
