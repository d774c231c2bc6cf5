"""Splits by whole sessions, for sets whose rows are sessions: every prefix of a held-out one asks for its next click.

A user's whole history counts as a session where a set has one sequence per user; `models data sessions` cuts longer
logs. Sessions are divided first and prefixes made afterwards, so no session stands in two parts.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.data.dataset import NO_TIMESTAMP, Dataset
from models.data.held_out import EvalCases, Split, distinct_times
from models.errors import DatasetError

TRAIN, VALID, TEST = 0, 1, 2
_PARTS: Final = {"train": TRAIN, "valid": VALID, "test": TEST}


def declared_sessions(dataset: Dataset, valid_share: float = 0.05, seed: int = 2021) -> Split:
    """The split that the data set carries in its column `split`: train, test and perhaps valid.

    Without a `valid`, a seeded sample of the training sessions validates: taken at random rather than from the end, so
    that training keeps the newest sessions, as the published figures for these files do.

    Raises:
        DatasetError: there is no such column, it says something else, a session is in two parts, or a part is empty.
    """
    labels = dataset.declared_split
    if labels is None:
        raise DatasetError(f"dataset '{dataset.name}': declared_sessions needs a column 'split', which has no values")
    names, of_event = np.unique(labels.astype(str), return_inverse=True)  # null becomes 'None'
    if unknown := [str(name) for name in names if name not in _PARTS]:
        raise DatasetError(f"dataset '{dataset.name}': column 'split' holds {unknown}, expected train, valid and test")
    part_of_event = np.array([_PARTS[name] for name in names])[of_event]
    sequences = dataset.sequences
    part = part_of_event[sequences.offsets[:-1]]
    if strays := np.flatnonzero(part_of_event != part[sequences.rows]).tolist():
        session = dataset.user_ids[sequences.rows[strays[0]]]
        raise DatasetError(f"dataset '{dataset.name}': session {session!r} is in two parts of the split, expected one")
    if not (part == VALID).any():
        part = part.copy()
        part[_drawn(np.flatnonzero(part == TRAIN), valid_share, seed)] = VALID
    return split_sessions(dataset, "declared_sessions", part)


def shuffled_sessions(dataset: Dataset, test_share: float = 0.1, valid_share: float = 0.05, seed: int = 2021) -> Split:
    """90 % of the sessions train, 10 % test, shuffled by `seed`; 5 % of the training sessions validate.

    The shares of LLM4SBR on Amazon, where a session is a user's whole history (sheet, section 2).

    Raises:
        DatasetError: a part would be empty.
    """
    part = np.full(dataset.n_users, TRAIN)
    part[_drawn(np.arange(dataset.n_users), test_share, seed)] = TEST
    part[_drawn(np.flatnonzero(part == TRAIN), valid_share, seed + 1)] = VALID
    return split_sessions(dataset, "shuffled_sessions", part)


def newest_sessions(dataset: Dataset, test_share: float = 0.1, valid_share: float = 0.1) -> Split:
    """The 10 % of sessions that ended last test, the 10 % before them validate.

    Sessions that ended in the same second are on the same side, in the later part.

    Raises:
        DatasetError: an event has no timestamp, or a part would be empty.
    """
    times = dataset.timestamps
    if times is None or (times == NO_TIMESTAMP).any():
        raise DatasetError(f"dataset '{dataset.name}': newest_sessions needs the timestamp of every event")
    ended = np.maximum.reduceat(times, dataset.sequences.offsets[:-1])
    ascending, n = np.sort(ended), len(ended)
    test_from = ascending[min(n - 1, round(n * (1 - test_share)))]
    valid_from = ascending[min(n - 1, round(n * (1 - test_share - valid_share)))]
    part = np.where(ended >= test_from, TEST, np.where(ended >= valid_from, VALID, TRAIN))
    return split_sessions(dataset, "newest_sessions", part)


def split_sessions(dataset: Dataset, name: str, part: NDArray[np.int64]) -> Split:
    """The split in which session s is in `part[s]`: TRAIN, VALID or TEST, anything else in none of them.

    Raises:
        DatasetError: a part has no session of at least two clicks.
    """
    lengths = dataset.sequences.lengths
    for word, number in _PARTS.items():
        if not ((part == number) & (lengths >= 2)).any():
            raise DatasetError(f"dataset '{dataset.name}': {name} leaves no session of two clicks to {word}")
    return Split(
        name=name,
        train=dataset.sequences.where((part == TRAIN)[dataset.sequences.rows]),
        valid=every_prefix(dataset, np.flatnonzero(part == VALID)),
        test=every_prefix(dataset, np.flatnonzero(part == TEST)),
    )


def every_prefix(dataset: Dataset, sessions: NDArray[np.int64]) -> EvalCases:
    """A case for each click of the given sessions but the first, session by session, the shortest prefix first."""
    sequences = dataset.sequences
    n_cases = np.maximum(sequences.lengths[sessions] - 1, 0)
    owner = np.repeat(sessions, n_cases)
    cut = np.arange(len(owner)) - np.repeat(np.cumsum(n_cases) - n_cases, n_cases) + 1
    target_at = sequences.offsets[owner] + cut
    return EvalCases(
        user_index=owner,
        inputs=sequences.take(owner).prefixes(cut),
        targets=sequences.items[target_at],
        distinct_times=distinct_times(dataset, target_at - 1, target_at),
    )


def _drawn(sessions: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    """A seeded sample of `sessions`, at least one."""
    order = np.random.default_rng(seed).permutation(sessions)
    return order[: max(1, round(len(sessions) * share))]
