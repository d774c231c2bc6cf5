"""Splits a dataset into training sequences and held-out cases, without showing training anything held out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.data.dataset import NO_TIMESTAMP, Dataset
from models.data.held_out import EvalCases, Split, distinct_times
from models.data.sequences import Sequences
from models.data.session_splits import declared_sessions, newest_sessions, shuffled_sessions
from models.errors import DatasetError

__all__ = ["SPLITS", "EvalCases", "Split", "by_session", "global_time", "leave_one_out", "user_disjoint"]


def leave_one_out(dataset: Dataset) -> Split:
    """Every user's last event is the test target, the second last the validation target, the rest is training.

    The test input is training plus the validation item. Users with fewer than 3 events train only.
    """
    sequences = dataset.sequences
    lengths = sequences.lengths
    users = np.flatnonzero(lengths >= 3)

    def newest(back: int) -> EvalCases:
        target_at = sequences.offsets[users + 1] - back
        inputs = sequences.prefixes(lengths - back).take(users)
        return EvalCases(users, inputs, sequences.items[target_at], distinct_times(dataset, target_at - 1, target_at))

    train = sequences.prefixes(np.where(lengths >= 3, lengths - 2, lengths))
    return Split(name="leave_one_out", train=train, valid=newest(2), test=newest(1))


def leave_one_out_per_scenario(dataset: Dataset) -> Split:
    """In each scenario of a user the last event is a test target, the second last a validation target.

    Scenarios with fewer than 3 events of a user train only. The input of a case is the user's training events of all
    scenarios, and for the test the validation item of its scenario after them. Where scenarios share no clock, an
    input may hold events of another scenario that came later: such figures read "cross-domain future visible".

    Raises:
        DatasetError: the dataset has no scenarios.
    """
    if dataset.scenarios is None:
        raise DatasetError(f"dataset '{dataset.name}': leave_one_out_per_scenario needs a column 'scenario'")
    sequences = dataset.sequences
    pairs = sequences.rows * len(dataset.scenario_names) + dataset.scenarios  # a user in a scenario
    order = np.argsort(pairs, kind="stable")  # events of a pair together, still oldest first
    _, starts, counts = np.unique(pairs[order], return_index=True, return_counts=True)
    held = counts >= 3
    test, valid = (order[(starts + counts - back)[held]] for back in (1, 2))
    keep = np.ones(dataset.n_interactions, dtype=bool)
    keep[test] = keep[valid] = False
    train = sequences.where(keep)
    users = sequences.rows[test]

    def cases(targets: NDArray[np.int64], further: NDArray[np.int64] | None) -> EvalCases:
        inputs = train.take(users)
        if further is not None:
            rows = zip(inputs, sequences.items[further].tolist(), strict=True)
            inputs = Sequences.from_lists([*row.tolist(), item] for row, item in rows)
        return EvalCases(users, inputs, sequences.items[targets], None)

    return Split("leave_one_out_per_scenario", train, cases(valid, None), cases(test, valid))


def global_time(dataset: Dataset, valid_share: float = 0.1, test_share: float = 0.1) -> Split:
    """Two moments cut all events: training before the first, validation between them, test after the second.

    The moments are chosen so that the newest `test_share` of all events, and `valid_share` before them, are held out;
    events of one second stay on one side. A user's case in a window is the first event there, and its input is all the
    user did before the window, so nothing held out is ever an input of its own window. Users without a history before
    the window, or without an event in it, have no case there.

    Raises:
        DatasetError: an event has no timestamp, or no training event would be left.
    """
    valid_from, test_from = global_time_moments(dataset, valid_share, test_share)
    times, sequences = dataset.timestamps, dataset.sequences
    assert times is not None

    def first_events(start: int, in_window: NDArray[np.bool_]) -> EvalCases:
        at = np.flatnonzero(in_window)
        users, first = np.unique(sequences.rows[at], return_index=True)
        inputs = sequences.where(times < start)
        known = inputs.lengths[users] > 0
        users, targets = users[known], sequences.items[at[first[known]]]
        # The target is at or after `start` and every input before it, so the two never share a time.
        return EvalCases(users, inputs.take(users), targets, np.ones(len(users), dtype=bool))

    return Split(
        name="global_time",
        train=sequences.where(times < valid_from),
        valid=first_events(valid_from, (times >= valid_from) & (times < test_from)),
        test=first_events(test_from, times >= test_from),
    )


def global_time_moments(dataset: Dataset, valid_share: float = 0.1, test_share: float = 0.1) -> tuple[int, int]:
    """The first second of the validation and of the test window of `global_time`.

    Raises:
        DatasetError: as there.
    """
    times = dataset.timestamps
    unknown = dataset.n_interactions if times is None else int(np.count_nonzero(times == NO_TIMESTAMP))
    if times is None or unknown:
        raise DatasetError(
            f"dataset '{dataset.name}': global_time needs the timestamp of every event, {unknown:,} of "
            f"{dataset.n_interactions:,} have none; leave_one_out needs only an order"
        )
    return _moments(dataset, times, valid_share, test_share, "global_time")


def by_session(dataset: Dataset, valid_share: float = 0.1, test_share: float = 0.1) -> Split:
    """Whole sessions are training, validation or test, by when they ended; a held-out one's last event is its target.

    The input is the rest of the same session, as for an anonymous visitor, so a session of one event has no case. A
    training row holds a user's training sessions one after another. Without timestamps, session ids that are all whole
    numbers are taken to count up with time, as in the public session sets.

    Raises:
        DatasetError: an event has no session, nothing orders the sessions, or no training session would be left.
    """
    owner, session_of = _sessions_of(dataset)
    order = np.argsort(session_of, kind="stable")  # a session's events together, still oldest first
    sessions = Sequences.from_lengths(dataset.sequences.items[order], np.bincount(session_of, minlength=len(owner)))
    ended = _session_ends(dataset, sessions, order)
    valid_from, test_from = _moments(dataset, ended, valid_share, test_share, "by_session")

    def last_events(held_out: NDArray[np.bool_]) -> EvalCases:
        at = np.flatnonzero(held_out & (sessions.lengths >= 2))
        newest = sessions.offsets[at + 1] - 1
        return EvalCases(
            user_index=owner[at],
            inputs=sessions.prefixes(sessions.lengths - 1).take(at),
            targets=sessions.items[newest],
            distinct_times=distinct_times(dataset, order[newest - 1], order[newest]),
        )

    return Split(
        name="by_session",
        train=dataset.sequences.where((ended < valid_from)[session_of]),
        valid=last_events((ended >= valid_from) & (ended < test_from)),
        test=last_events(ended >= test_from),
    )


def user_disjoint(
    dataset: Dataset, train_share: float = 0.8, valid_share: float = 0.1, history_share: float = 0.8, seed: int = 2021
) -> Split:
    """Some users train with all they did, the others are never seen: 80 / 10 / 10 % of the users, shuffled by `seed`.

    A held-out user's first 80 % of events (rounded down, at least one) are the input, and every item of the rest is a
    target, as the family of ComiRec evaluates (EIMF sheet, section 2). An item that repeats counts once. Held-out
    users with a single event have no case.

    Raises:
        DatasetError: a part would have no user.
    """
    n = dataset.n_users
    n_train, n_valid = int(n * train_share), int(n * valid_share)
    if min(n_train, n_valid, n - n_train - n_valid) < 1:
        raise DatasetError(
            f"dataset '{dataset.name}': user_disjoint takes {train_share:g} of {n} users to train and {valid_share:g} "
            "to validate, expected at least one user in each of three parts"
        )
    order = np.random.default_rng(seed).permutation(n)
    in_training = np.zeros(n, dtype=bool)
    in_training[order[:n_train]] = True
    sequences = dataset.sequences

    def rest_of(users: NDArray[np.int64]) -> EvalCases:
        users = np.sort(users[sequences.lengths[users] >= 2])
        n_input = np.clip((sequences.lengths[users] * history_share).astype(np.int64), 1, sequences.lengths[users] - 1)
        starts, ends = sequences.offsets[users] + n_input, sequences.offsets[users + 1]
        # The first of each item among a case's events after its input.
        found = [_first_of_each(sequences.items[start:end]) + start for start, end in zip(starts, ends, strict=True)]
        n_targets = np.array([len(places) for places in found], dtype=np.int64)
        at = np.concatenate(found) if found else np.empty(0, dtype=np.int64)
        lengths = np.zeros(n, dtype=np.int64)
        lengths[users] = n_input
        return EvalCases(
            user_index=users,
            inputs=sequences.prefixes(lengths).take(users),
            targets=sequences.items[at],
            distinct_times=distinct_times(dataset, np.repeat(starts - 1, n_targets), at),
            n_targets=n_targets,
        )

    return Split(
        name="user_disjoint",
        train=sequences.where(in_training[sequences.rows]),
        valid=rest_of(order[n_train : n_train + n_valid]),
        test=rest_of(order[n_train + n_valid :]),
    )


def _first_of_each(items: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of the first occurrences, ascending."""
    return np.sort(np.unique(items, return_index=True)[1])


SPLITS: Final[dict[str, Callable[[Dataset], Split]]] = {
    "leave_one_out": leave_one_out,
    "leave_one_out_per_scenario": leave_one_out_per_scenario,
    "global_time": global_time,
    "by_session": by_session,
    "user_disjoint": user_disjoint,
    "declared_sessions": declared_sessions,
    "shuffled_sessions": shuffled_sessions,
    "newest_sessions": newest_sessions,
}


def _moments(
    dataset: Dataset, times: NDArray[np.int64], valid_share: float, test_share: float, split: str
) -> tuple[int, int]:
    """The first second of the validation and of the test window."""
    if not (valid_share > 0 and test_share > 0 and valid_share + test_share < 1):
        raise DatasetError(
            f"{split}: valid_share {valid_share} and test_share {test_share}, expected both above 0, together below 1"
        )
    ascending, n = np.sort(times), len(times)
    n_test = max(1, round(n * test_share))
    n_held_out = n_test + max(1, round(n * valid_share))
    if n_held_out >= n or ascending[0] == ascending[n - n_held_out]:
        raise DatasetError(
            f"dataset '{dataset.name}': {split} leaves nothing to train on, too many events share a time"
        )
    return int(ascending[n - n_held_out]), int(ascending[n - n_test])


def _sessions_of(dataset: Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """int64 (sessions,) the user row of every session, and int64 (events,) the session of every event.

    Two users may carry the same session id; these are two sessions.
    """
    if dataset.session_ids is None:
        raise DatasetError(
            f"dataset '{dataset.name}': by_session needs a column 'session_id', which has no values here"
        )
    encoded = pa.array(dataset.session_ids, pa.string()).dictionary_encode()
    if encoded.null_count:
        raise DatasetError(f"dataset '{dataset.name}': by_session needs the session of every event, "
                           f"{encoded.null_count:,} of {dataset.n_interactions:,} have none")  # fmt: skip
    n_ids = len(encoded.dictionary)
    pairs, session_of = np.unique(dataset.sequences.rows * n_ids + encoded.indices.to_numpy(), return_inverse=True)
    return pairs // n_ids, session_of


def _session_ends(dataset: Dataset, sessions: Sequences, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 (sessions,): the time of each session's newest event, or its number where there are no times."""
    times = dataset.timestamps
    if times is not None:
        ended: NDArray[np.int64] = np.maximum.reduceat(times[order], sessions.offsets[:-1])
        if unknown := int(np.count_nonzero(ended == NO_TIMESTAMP)):
            raise DatasetError(
                f"dataset '{dataset.name}': by_session needs times, {unknown:,} of {len(ended):,} sessions have none"
            )
        return ended
    assert dataset.session_ids is not None
    first_event = order[sessions.offsets[:-1]]
    try:
        numbers: NDArray[np.int64] = pc.cast(
            pa.array(dataset.session_ids[first_event], pa.string()), pa.int64()
        ).to_numpy()
    except pa.ArrowInvalid:
        raise DatasetError(
            f"dataset '{dataset.name}': by_session needs timestamps, or session ids that are numbers in order of time"
        ) from None
    return numbers
