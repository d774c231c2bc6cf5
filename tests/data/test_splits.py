from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data.dataset import Dataset, dataset_from_tables
from models.data.splits import (
    SPLITS,
    EvalCases,
    by_session,
    global_time,
    leave_one_out,
    leave_one_out_per_scenario,
    user_disjoint,
)
from models.errors import DatasetError

MakeDataset = Callable[..., Dataset]


def listed(cases: EvalCases) -> list[tuple[int, list[int], int]]:
    """(user, input, target) of each target."""
    rows = range(len(cases)) if cases.rows is None else cases.rows.tolist()
    users, targets = cases.by_target(cases.user_index).tolist(), cases.targets.tolist()
    return [(user, cases.inputs[row].tolist(), at) for user, row, at in zip(users, rows, targets, strict=True)]


def test_leave_one_out_holds_out_the_last_two_events(make_dataset: MakeDataset) -> None:
    # Users in order: ann (4 events), bob (2, too few), cid (3).
    dataset = make_dataset(
        "user_id item_id timestamp",
        *(("ann", "a", 1), ("ann", "b", 2), ("ann", "c", 2), ("ann", "a", 3)),
        *(("bob", "a", 1), ("bob", "b", 2)),
        *(("cid", "c", 1), ("cid", "b", 1), ("cid", "a", 1)),
    )
    split = leave_one_out(dataset)

    assert [row.tolist() for row in split.train] == [[1, 2], [1, 2], [3]]
    assert listed(split.valid) == [(0, [1, 2], 3), (2, [3], 2)]
    assert listed(split.test) == [(0, [1, 2, 3], 1), (2, [3, 2], 1)]
    assert split.test.distinct_times is not None
    assert split.test.distinct_times.tolist() == [True, False]
    assert split.valid.distinct_times is not None
    assert split.valid.distinct_times.tolist() == [False, False]


def test_without_times_nothing_is_said_about_them(make_dataset: MakeDataset) -> None:
    split = leave_one_out(make_dataset("user_id item_id", ("u", "a"), ("u", "b"), ("u", "c")))
    assert split.test.distinct_times is None


def test_an_unknown_time_is_never_called_distinct(make_dataset: MakeDataset) -> None:
    rows = [("u", "a", 5, 0), ("u", "b", 6, 1), ("u", "c", None, 2)]
    split = leave_one_out(make_dataset("user_id item_id timestamp position", *rows))
    assert split.test.distinct_times is not None
    assert split.test.distinct_times.tolist() == [False]


def test_global_time_cuts_everybody_at_the_same_moments(make_dataset: MakeDataset) -> None:
    # Ten events: the newest is test, the one before it validation. Ties at 9 fall on one side together.
    dataset = make_dataset(
        "user_id item_id timestamp",
        *(("ann", "a", 1), ("ann", "b", 2), ("ann", "c", 9), ("ann", "d", 10)),
        *(("bob", "a", 3), ("bob", "b", 4), ("bob", "c", 5), ("bob", "d", 9)),
        *(("new", "a", 6), ("new", "b", 10)),
    )
    split = global_time(dataset, valid_share=0.2, test_share=0.2)

    # Sorted times: 1 2 3 4 5 6 9 9 10 10: test from 10, validation from 9.
    assert [row.tolist() for row in split.train] == [[1, 2], [1, 2, 3], [1]]
    assert listed(split.valid) == [(0, [1, 2], 3), (1, [1, 2, 3], 4)]
    assert listed(split.test) == [(0, [1, 2, 3], 4), (2, [1], 2)]


def test_global_time_skips_users_without_a_history(make_dataset: MakeDataset) -> None:
    rows = [("old", "a", time) for time in range(8)]
    split = global_time(make_dataset("user_id item_id timestamp", *rows, ("new", "b", 50), ("new", "c", 60)))
    assert len(split.valid) == 0
    assert listed(split.test) == [(0, [2], 3)]  # new: b was before the test window


def test_global_time_needs_every_timestamp(make_dataset: MakeDataset) -> None:
    with pytest.raises(DatasetError, match="3 of 3 have none"):
        global_time(make_dataset("user_id item_id", ("u", "a"), ("u", "b"), ("u", "c")))
    rows = [("u", "a", 5, 0), ("u", "b", None, 1)]
    with pytest.raises(DatasetError, match="1 of 2 have none"):
        global_time(make_dataset("user_id item_id timestamp position", *rows))


@pytest.mark.parametrize("split", [global_time, by_session])
def test_a_split_that_leaves_no_training_is_refused(make_dataset: MakeDataset, split: object) -> None:
    rows = [("u", "a", 5, f"s{n}") for n in range(6)]
    dataset = make_dataset("user_id item_id timestamp session_id", *rows)
    with pytest.raises(DatasetError, match="leaves nothing to train on"):
        split(dataset)  # type: ignore[operator]
    with pytest.raises(DatasetError, match="expected both above 0"):
        split(dataset, test_share=0.0)  # type: ignore[operator]


def test_by_session_never_cuts_a_session(make_dataset: MakeDataset) -> None:
    # Four sessions end at 2, 3, 9 and 11; the last is test, the one before it validation.
    dataset = make_dataset(
        "user_id session_id item_id timestamp",
        *(("ann", "s1", "a", 1), ("ann", "s1", "b", 2)),
        *(("bob", "s1", "c", 2), ("bob", "s1", "d", 3)),  # the same id, another user: another session
        *(("ann", "s3", "d", 1), ("ann", "s3", "a", 8), ("ann", "s3", "a", 9)),
        *(("bob", "s4", "a", 10), ("bob", "s4", "b", 11)),
    )
    split = by_session(dataset, valid_share=0.25, test_share=0.25)

    assert [row.tolist() for row in split.train] == [[1, 2], [3, 4]]
    assert listed(split.valid) == [(0, [4, 1], 1)]
    assert listed(split.test) == [(1, [1], 2)]
    assert split.test.distinct_times is not None
    assert split.test.distinct_times.tolist() == [True]


def test_sessions_of_one_event_have_no_case(make_dataset: MakeDataset) -> None:
    rows = [("u", f"s{n}", "a", n) for n in range(10)]
    split = by_session(make_dataset("user_id session_id item_id timestamp", *rows))
    assert (len(split.valid), len(split.test)) == (0, 0)
    assert split.train.lengths.tolist() == [8]


def test_numbered_sessions_without_times_go_by_number(make_dataset: MakeDataset) -> None:
    rows = [(n, n, item, at) for n in (8, 9, 10, 11) for at, item in enumerate("ab")]
    dataset = make_dataset("user_id session_id item_id position", *rows)
    split = by_session(dataset, valid_share=0.25, test_share=0.25)
    assert dataset.user_ids[int(split.valid.user_index[0])] == "10"
    assert dataset.user_ids[int(split.test.user_index[0])] == "11"  # '9' would be the last as a string
    assert split.test.distinct_times is None


def test_by_session_says_what_is_missing(make_dataset: MakeDataset) -> None:
    with pytest.raises(DatasetError, match="needs a column 'session_id'"):
        by_session(make_dataset("user_id item_id", ("u", "a")))
    with pytest.raises(DatasetError, match="1 of 2 have none"):
        by_session(make_dataset("user_id item_id session_id", ("u", "a", "s"), ("u", "a", None)))
    with pytest.raises(DatasetError, match="session ids that are numbers"):
        by_session(make_dataset("user_id item_id session_id", ("u", "a", "s"), ("u", "a", "t")))
    rows = [("u", "a", "s", 0, 5), ("u", "a", "t", 1, None)]
    with pytest.raises(DatasetError, match="1 of 2 sessions have none"):
        by_session(make_dataset("user_id item_id session_id position timestamp", *rows))


EVENTS = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 9), st.integers(0, 40), st.integers(0, 3)), min_size=2)


def dataset_of(events: list[tuple[int, int, int, int]]) -> Dataset:
    """Each event is an item of its own, so an item tells its event."""
    users, _, times, sessions = zip(*events, strict=True)
    items = [f"{at:05d}" for at in range(len(events))]
    columns = {"user_id": users, "item_id": items, "timestamp": times, "session_id": sessions}
    return dataset_from_tables("drawn", pa.table(columns), None)


WHOLE = ("by_session", "user_disjoint", "shuffled_sessions", "newest_sessions")  # a session, a user is in one part
WHY_NOT = {"user_disjoint": "in each of three parts"} | dict.fromkeys(WHOLE[2:], "leaves no session of two clicks")


# One says itself what is held out; the other holds something out of each scenario, whose inputs lie across them.
OTHERS = {"declared_sessions", "leave_one_out_per_scenario"}


@given(EVENTS, st.sampled_from(sorted(SPLITS.keys() - OTHERS)))
def test_no_split_leaks(events: list[tuple[int, int, int, int]], name: str) -> None:
    dataset = dataset_of(events)
    try:
        split = SPLITS[name](dataset)
    except DatasetError as error:
        assert WHY_NOT.get(name, "leaves nothing to train on") in str(error)  # noqa: PT017
        return
    times = np.array([event[2] for event in events])  # item index i is event i - 1
    trained = set(split.train.items.tolist())

    assert len(split.train) == dataset.n_users
    for cases in (split.valid, split.test):
        assert not trained & set(cases.targets.tolist())
        assert len(set(cases.user_index.tolist())) == len(cases) or name in ("by_session", *WHOLE[2:])
        for user, inputs, target in listed(cases):
            assert inputs
            assert target not in inputs
            events_of_user = dataset.sequences[user].tolist()
            assert [item for item in events_of_user if item in inputs] == inputs
            assert events_of_user.index(inputs[-1]) < events_of_user.index(target)
    held_out_whole = name in WHOLE
    for user, inputs, _ in listed(split.valid) + (listed(split.test) if held_out_whole else []):
        if held_out_whole:
            assert not trained & set(inputs)
        else:
            assert inputs == split.train[user].tolist()
    if name == "global_time":
        held_out = np.concatenate([split.valid.targets, split.test.targets]) - 1
        assert not len(held_out) or max(times[item - 1] for item in trained) < times[held_out].min()
        valid_targets = split.valid.targets - 1
        test_targets = split.test.targets - 1
        if len(valid_targets) and len(test_targets):
            assert times[valid_targets].max() < times[test_targets].min()


def _users(n: int, length: int) -> Dataset:
    """User uN chose items N, N + 1, ...: `length` of them."""
    rows = [(f"u{user:03}", f"i{user + step:03}", 10 * step) for user in range(n) for step in range(length)]
    users, items, times = zip(*rows, strict=True)
    return dataset_from_tables(
        "many", pa.table({"user_id": users, "item_id": items, "timestamp": pa.array(times, pa.int64())}), None
    )


def test_user_disjoint_trains_on_whole_users_and_asks_the_others_for_all_that_follows_four_fifths() -> None:
    split = user_disjoint(_users(20, 11))
    lengths = split.train.lengths
    held_out = np.sort(np.concatenate([split.valid.user_index, split.test.user_index]))
    assert sorted(lengths.tolist()) == [0] * 4 + [11] * 16
    assert held_out.tolist() == np.flatnonzero(lengths == 0).tolist()
    assert len(split.valid) == len(split.test) == 2
    cases = split.test
    user = int(cases.user_index[1])
    # 80 % of 11 events, rounded down, are the input; items are numbered from 1.
    assert cases.inputs[1].tolist() == [user + step + 1 for step in range(8)]
    assert cases.targets_by_case()[1].tolist() == [user + step + 1 for step in (8, 9, 10)]
    assert cases.rows is not None
    assert cases.rows.tolist() == [0, 0, 0, 1, 1, 1]
    assert cases.distinct_times is not None
    assert cases.distinct_times.all()


def test_user_disjoint_is_shuffled_and_the_same_every_time() -> None:
    one, other = user_disjoint(_users(200, 5)), user_disjoint(_users(200, 5))
    assert (one.test.user_index == other.test.user_index).all()
    assert one.test.user_index.tolist() != list(range(180, 200))


def test_a_target_that_repeats_counts_once() -> None:
    rows = [(f"u{user}", item) for user in range(10) for item in "abcdefghxx"]
    users, items = zip(*rows, strict=True)
    positions = pa.array([place % 10 for place in range(100)], pa.int64())
    split = user_disjoint(
        dataset_from_tables("twice", pa.table({"user_id": users, "item_id": items, "position": positions}), None)
    )
    assert split.test.targets.tolist() == [9]


def test_user_disjoint_needs_a_user_for_each_part() -> None:
    with pytest.raises(DatasetError, match="at least one user in each of three parts"):
        user_disjoint(_users(5, 5))


@given(EVENTS)
def test_per_scenario_nothing_held_out_trains_or_is_read(events: list[tuple[int, int, int, int]]) -> None:
    users, items, times, scenarios = zip(*events, strict=True)
    columns = {"user_id": users, "item_id": [f"{at:05d}" for at in range(len(events))], "timestamp": times}
    scenario = pa.array([f"s{scenario}" for scenario in scenarios])
    dataset = dataset_from_tables("drawn", pa.table({**columns, "scenario": scenario}), None)
    split = leave_one_out_per_scenario(dataset)
    trained, valid = set(split.train.items.tolist()), set(split.valid.targets.tolist())
    test = set(split.test.targets.tolist())
    assert not trained & (valid | test)
    assert not valid & test
    assert len(trained | valid | test) == len(items)
    place = {item: at for user in range(dataset.n_users) for at, item in enumerate(dataset.sequences[user].tolist())}
    for user, inputs, target in listed(split.valid):
        assert inputs == split.train[user].tolist()
        mine = [item for item in inputs if scenarios[item - 1] == scenarios[target - 1]]
        assert all(place[item] < place[target] for item in mine)
    for user, inputs, target in listed(split.test):
        assert inputs[:-1] == split.train[user].tolist()
        assert inputs[-1] in valid
        assert scenarios[inputs[-1] - 1] == scenarios[target - 1]
        assert place[inputs[-1]] < place[target]
