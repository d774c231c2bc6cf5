"""What a session model keeps of its language model's answers when it is served without them.

Three readings of the same clicks, held-back answered prefixes: the plain encoder, the taught model with the answers in
its gates (`cached`, as the paper serves), and from behaviour alone. Test prefixes have no answers: there the plain
encoder and behaviour alone. 95 % intervals by paired bootstrap over users, and over paired seeds where there are some.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.compare import check_comparable, read_ranks
from models.errors import RunError
from models.llm4sbr_exam import RANKS
from models.metrics import case_values

METRICS: Final = ("hr@5", "mrr@20")
KEEPS: Final = 0.8  # of the gain: what may be called kept
N_DRAWS: Final = 2000


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"

    @property
    def is_gain(self) -> bool:
        return self.low > 0


def behaviour_only(plain: Sequence[Path], taught: Sequence[Path]) -> dict[str, Any]:
    """Figures of taught runs against plain ones of the same seeds, in the same order.

    Raises:
        RunError: a run is not evaluated, is not LLM4SBR's, or is not of the same terms or seed as its partner.
    """
    if len(plain) != len(taught) or not plain:
        raise RunError(f"{len(plain)} plain and {len(taught)} taught runs, expected as many, one pair a seed")
    reports = check_comparable([*plain, *taught])
    if [report["seed"] for report in reports[: len(plain)]] != [report["seed"] for report in reports[len(plain) :]]:
        raise RunError(f"seeds are {[report['seed'] for report in reports]}, expected those of plain runs twice")
    ours, theirs = ([_Held.read(folder) for folder in folders] for folders in (taught, plain))
    if any(not np.array_equal(held.users, ours[0].users) or held.cuts != ours[0].cuts for held in (*ours, *theirs)):
        raise RunError(f"{taught[0]}: held back other prefixes than its partners, expected one answers_seed")
    if any(held.cached is None for held in ours):
        raise RunError(f"{taught[0]}: has no gates that read answers, nothing to keep")
    return {
        "plain": [folder.name for folder in plain],
        "taught": [folder.name for folder in taught],
        "n_held_back": len(ours[0].users),
        "n_test": len(ours[0].test_users),
        "n_test_users": len(np.unique(ours[0].test_users)),
        "held_back": {metric: _kept(metric, ours, theirs) for metric in METRICS},
        "test": {metric: _on_test(metric, taught, plain, ours[0].test_users) for metric in METRICS},
    }


def verdict(cached_gain: Interval, ratio: Interval | None) -> str:
    """What may be said of what is kept: a claim only where the gain is one and 80 % of it is certain."""
    if not cached_gain.is_gain or ratio is None or ratio.low < KEEPS:
        return "not resolved at this n"
    return f"keeps at least {KEEPS:.0%} of the gain"


def bootstrap(
    values: Mapping[str, NDArray[np.float64]], users: NDArray[np.int64], seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Draws (N_DRAWS,) of each mean, from the same users and the same seeds in each draw.

    Args:
        values: (seeds, cases) each, the seeds in the same order.
        users: (cases,); all cases of a user are drawn together.
    """
    rng = np.random.default_rng(seed)
    _, of_case, n_cases = np.unique(users, return_inverse=True, return_counts=True)
    sums = {
        name: np.stack([np.bincount(of_case, weights=one, minlength=len(n_cases)) for one in seeds])
        for name, seeds in values.items()
    }
    n_seeds = len(next(iter(values.values())))
    draws = {name: np.empty(N_DRAWS) for name in values}
    for draw in range(N_DRAWS):
        times = np.bincount(rng.integers(0, len(n_cases), len(n_cases)), minlength=len(n_cases))
        of_seeds = rng.integers(0, n_seeds, n_seeds) if n_seeds > 1 else np.zeros(1, dtype=np.int64)
        n = (n_cases @ times) * n_seeds
        for name, per_user in sums.items():
            draws[name][draw] = (per_user @ times)[of_seeds].sum() / n
    return draws


def as_markdown(found: Mapping[str, Any]) -> str:
    """The figures as two Markdown tables."""
    lines = [
        f"Held-back answered prefixes: {found['n_held_back']:,}, runs a side: {len(found['taught'])}.",
        "",
        "| metric | plain | cached | behaviour alone | cached - plain | behaviour - plain | ratio | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for metric, row in found["held_back"].items():
        means = " | ".join(f"{row[name]:.4f}" for name in ("plain", "cached", "behaviour"))
        gains = f"{Interval(*row['cached_gain'])} | {Interval(*row['behaviour_gain'])}"
        ratio = "" if row["ratio"] is None else f"{Interval(*row['ratio'])}"
        lines.append(f"| {metric} | {means} | {gains} | {ratio} | {row['verdict']} |")
    lines += ["", f"Test: {found['n_test']:,} prefixes of {found['n_test_users']:,} users, none with an answer.", ""]
    lines += ["| metric | plain | behaviour alone | behaviour - plain |", "| --- | --- | --- | --- |"]
    for metric, row in found["test"].items():
        lines.append(f"| {metric} | {row['plain']:.4f} | {row['behaviour']:.4f} | {Interval(*row['behaviour_gain'])} |")
    return "\n".join(lines) + "\n"


class _Held(NamedTuple):
    """What an evaluation wrote of held-back prefixes; ranks are 0-based."""

    users: NDArray[np.int64]
    cuts: list[int]
    behaviour: NDArray[np.int64]
    cached: NDArray[np.int64] | None
    test_users: NDArray[np.int64]

    @classmethod
    def read(cls, folder: Path) -> _Held:
        path = folder / RANKS
        if not path.is_file():
            raise RunError(f"{folder}: has no {RANKS}, expected an evaluated run of kind 'llm4sbr'")
        with np.load(path) as saved:
            cached = saved["cached"] if "cached" in saved.files else None
            return cls(saved["users"], saved["cuts"].tolist(), saved["behaviour"], cached, saved["test_users"])


def _kept(metric: str, ours: Sequence[_Held], theirs: Sequence[_Held]) -> dict[str, Any]:
    values = {
        "plain": np.stack([case_values(metric, held.behaviour) for held in theirs]),
        "behaviour": np.stack([case_values(metric, held.behaviour) for held in ours]),
        "cached": np.stack([case_values(metric, held.cached) for held in ours if held.cached is not None]),
    }
    draws = bootstrap(values, ours[0].users)
    means = {name: float(found.mean()) for name, found in values.items()}
    cached_gain = _interval(means["cached"] - means["plain"], draws["cached"] - draws["plain"])
    ratio = None
    if cached_gain.is_gain:  # over a gain that may be nothing, a ratio says nothing
        behaviour, cached = draws["behaviour"] - draws["plain"], draws["cached"] - draws["plain"]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = _interval((means["behaviour"] - means["plain"]) / cached_gain.mean, behaviour / cached)
    return {
        **means,
        "cached_gain": list(cached_gain),
        "behaviour_gain": list(_interval(means["behaviour"] - means["plain"], draws["behaviour"] - draws["plain"])),
        "ratio": None if ratio is None or not all(map(math.isfinite, ratio)) else list(ratio),
        "verdict": verdict(cached_gain, ratio),
    }


def _on_test(metric: str, taught: Sequence[Path], plain: Sequence[Path], users: NDArray[np.int64]) -> dict[str, Any]:
    values = {
        name: np.stack([read_ranks(folder).values(metric) for folder in folders])
        for name, folders in (("plain", plain), ("behaviour", taught))
    }
    draws = bootstrap(values, users)
    means = {name: float(found.mean()) for name, found in values.items()}
    gain = _interval(means["behaviour"] - means["plain"], draws["behaviour"] - draws["plain"])
    return {**means, "behaviour_gain": list(gain)}


def _interval(mean: float, draws: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(mean, float(low), float(high))
