"""Splits a dataset into training sequences and held-out cases, without showing training anything held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.data.dataset import NO_TIMESTAMP, Dataset
from models.data.sequences import Sequences


@dataclass(frozen=True, eq=False)
class EvalCases:
    """n held-out questions: after `inputs[c]`, user `user_index[c]` chose item `targets[c]`."""

    user_index: NDArray[np.int64]  # (n,) row of dataset.user_ids
    inputs: Sequences  # (n,) rows, oldest first
    targets: NDArray[np.int64]  # (n,) item index
    distinct_times: NDArray[np.bool_] | None  # (n,) target and newest input have different known times; None: no times

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, eq=False)
class Split:
    """Training sequences (row = user of the dataset, may be empty) and the two sets of held-out cases."""

    name: str
    train: Sequences
    valid: EvalCases
    test: EvalCases


def leave_one_out(dataset: Dataset) -> Split:
    """Every user's last event is the test target, the second last the validation target, the rest is training.

    The test input is training plus the validation item. Users with fewer than 3 events train only.
    """
    lengths = dataset.sequences.lengths
    users = np.flatnonzero(lengths >= 3)
    train = dataset.sequences.prefixes(np.where(lengths >= 3, lengths - 2, lengths))
    return Split(
        name="leave_one_out",
        train=train,
        valid=_last_events(dataset, users, back=2),
        test=_last_events(dataset, users, back=1),
    )


def _last_events(dataset: Dataset, users: NDArray[np.int64], back: int) -> EvalCases:
    """One case per user: the `back`-th newest event is the target, all before it the input."""
    sequences = dataset.sequences
    return _cases(
        dataset, users, sequences.prefixes(sequences.lengths - back).take(users), sequences.offsets[users + 1] - back
    )


def _cases(dataset: Dataset, users: NDArray[np.int64], inputs: Sequences, targets_at: NDArray[np.int64]) -> EvalCases:
    """Cases whose target is event `targets_at[c]` of the dataset and whose newest input is the event before it."""
    times = dataset.timestamps
    distinct = None
    if times is not None:
        before, after = times[targets_at - 1], times[targets_at]
        distinct = (before != after) & (before != NO_TIMESTAMP) & (after != NO_TIMESTAMP)
    return EvalCases(
        user_index=users, inputs=inputs, targets=dataset.sequences.items[targets_at], distinct_times=distinct
    )


SPLITS: Final[dict[str, Callable[[Dataset], Split]]] = {"leave_one_out": leave_one_out}
