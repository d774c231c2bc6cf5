from collections.abc import Callable

from models.data.dataset import Dataset
from models.data.statistics import describe

MakeDataset = Callable[..., Dataset]


def test_the_numbers_of_a_tiny_set(make_dataset: MakeDataset) -> None:
    # ann: a b c a (training a b), bob: a (training a), cid: a b b (training a). Training counts: a 3, b 1, c 0.
    dataset = make_dataset(
        "user_id item_id timestamp scenario session_id",
        *(("ann", "a", 0, "home", "1"), ("ann", "b", 1, "home", "1"), ("ann", "c", 1, "ads", "2")),
        *(("ann", "a", 2, "home", "2"), ("bob", "a", 86400, "home", "1")),
        *(("cid", "a", 5, "home", "1"), ("cid", "b", 6, "home", "1"), ("cid", "b", 6, "home", "1")),
    )
    found = describe(dataset)

    assert (found["n_users"], found["n_items"], found["n_interactions"]) == (3, 3, 8)
    assert found["density"] == 8 / 9
    assert found["events_per_user"] == {"mean": 2.667, "median": 3.0, "min": 1, "max": 4}
    assert found["n_users_below_3_events"] == 1
    assert found["n_repeats"] == 2  # ann's second a, cid's second b
    assert found["times"] == {"first": "1970-01-01T00:00:00+00:00", "last": "1970-01-02T00:00:00+00:00", "n_unknown": 0}
    assert found["scenarios"] == {"ads": 1, "home": 7}
    assert found["sessions"] == {"n_sessions": 4, "events_per_session": 2.0}
    assert found["tail"] == {
        "n_tail_items": 2,  # 80 % of 3, rounded down: c (0) and b (1)
        "n_head_items": 1,
        "most_interactions_of_a_tail_item": 1,
        "tail_share_of_training": 1 / 4,
        "n_items_never_trained": 1,
        "n_test_targets": 2,
        "n_test_targets_tail": 1,  # ann's a is head, cid's b is tail
        "n_test_targets_never_trained": 0,
        "tail_user_below": 1.6,  # 80th percentile of 2 1 1
        "n_test_users_tail": 1,
        "n_test_users_head": 1,
        "n_test_users_with_distinct_last_times": 1,
    }
    assert found["oddities"] == [
        "1 users have fewer than 3 events: leave_one_out only trains on them",
        "3 items have neither title nor text id",
    ]


def test_what_may_surprise_is_said(make_dataset: MakeDataset) -> None:
    rows = [("u 1", "a", 9, 0), ("u 1", "b", 8, 1), ("u 1", "c", None, 2)]
    found = describe(make_dataset("user_id item_id timestamp position", *rows))["oddities"]
    assert found[:3] == [
        "1 events have no timestamp, the others do: global_time cannot be used",
        "1 events are older than the event before them: the positions contradict the timestamps",
        "1 user ids cannot cross HTTP, the first is 'u 1'",
    ]


def test_a_set_of_bare_ids_can_be_described(make_dataset: MakeDataset) -> None:
    found = describe(make_dataset("user_id item_id", ("u", "a")))
    assert (found["times"], found["sessions"], found["scenarios"]) == (None, None, {})
    assert found["tail"]["n_test_targets"] == 0
    assert found["tail"]["n_test_users_with_distinct_last_times"] is None
