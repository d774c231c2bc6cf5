"""Training sequences and held-out cases: what every split makes of a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data.dataset import NO_TIMESTAMP, Dataset
from models.data.sequences import Sequences


@dataclass(frozen=True, eq=False)
class EvalCases:
    """n held-out questions: after `inputs[c]`, user `user_index[c]` chose item `targets[c]`, or several items.

    With several targets a case, `targets` and what is called by target have one entry for each of them, case by case.
    """

    user_index: NDArray[np.int64]  # (n,) row of dataset.user_ids
    inputs: Sequences  # (n,) rows, oldest first, none empty
    targets: NDArray[np.int64]  # item index, by target
    distinct_times: (
        NDArray[np.bool_] | None
    )  # by target: newest input and target have different known times; None: none
    n_targets: NDArray[np.int64] | None = None  # (n,) at least 1; None: one each

    def __len__(self) -> int:
        return len(self.user_index)

    @property
    def rows(self) -> NDArray[np.int64] | None:
        """The case of each target, ascending; None where each case has one."""
        return None if self.n_targets is None else np.repeat(np.arange(len(self)), self.n_targets)

    @property
    def headline(self) -> tuple[str, str]:
        """The two metrics these cases are told by: how many targets are found, and how high they stand."""
        return ("hr@10", "ndcg@10") if self.n_targets is None else ("recall@50", "ndcg@50")

    def by_target(self, values: NDArray[Any]) -> NDArray[Any]:
        """What is known of each case, for each of its targets."""
        return values if self.n_targets is None else np.repeat(values, self.n_targets)

    def targets_by_case(self) -> list[NDArray[np.int64]]:
        """The targets of each case, nearest in time first."""
        starts = np.arange(1, len(self)) if self.n_targets is None else np.cumsum(self.n_targets)[:-1]
        return np.split(self.targets, starts) if len(self) else []


@dataclass(frozen=True, eq=False)
class Split:
    """Training sequences (row = user of the dataset, may be empty) and the two sets of held-out cases."""

    name: str
    train: Sequences
    valid: EvalCases
    test: EvalCases


def distinct_times(dataset: Dataset, before: NDArray[np.int64], after: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """bool (n,): events `before[c]` and `after[c]` have different known times; None if the dataset has no times."""
    times = dataset.timestamps
    if times is None:
        return None
    known = (times[before] != NO_TIMESTAMP) & (times[after] != NO_TIMESTAMP)
    distinct: NDArray[np.bool_] = known & (times[before] != times[after])
    return distinct
