from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msr_fakes import small_shop, two_shops

from models.data.dataset import Dataset, read_dataset
from models.data.folder import read_tables
from models.data.sequences import Sequences
from models.data.splits import SPLITS, global_time, global_time_moments, leave_one_out, leave_one_out_per_scenario
from models.errors import DatasetError
from models.item_attributes import item_attributes
from models.ranker_examples import Requests, ScenarioSampler, ranking_data, with_negatives


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shop(tmp_path_factory.mktemp("msr") / "shop")


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_shops(tmp_path_factory.mktemp("msr") / "shops")


def test_a_moment_holds_what_was_shown_at_one_time_and_what_was_clicked_of_it(shop: Path) -> None:
    dataset = read_dataset(shop)
    data = ranking_data(shop, dataset, global_time(dataset), 5, 3, seed=0)
    shown = read_tables(shop).impressions
    assert shown is not None
    assert sum(int((part.candidates > 0).sum()) for part in (data.train, data.valid, data.test)) == shown.num_rows
    assert (data.train.labels.sum(1) == 1).all()  # the shop records one click a screen
    assert data.shown
    user, item = data.test.user_index[0], data.test.candidates[0][data.test.labels[0] > 0][0]
    assert item in dataset.sequences[int(user)]


def test_no_history_holds_anything_that_came_with_its_moment_or_after_it(shop: Path) -> None:
    dataset = read_dataset(shop)
    valid_from, test_from = global_time_moments(dataset)
    data = ranking_data(shop, dataset, global_time(dataset), 500, 3, seed=0)
    assert dataset.timestamps is not None
    for part, low, high in (
        (data.train, 0, valid_from),
        (data.valid, valid_from, test_from),
        (data.test, test_from, 2**62),
    ):
        for row in range(len(part)):
            user = int(part.user_index[row])
            at = dataset.sequences.offsets[user] + int(part.seq_len[row])
            read = part.item_seq[row][part.item_seq.shape[1] - part.seq_len[row] :]
            assert read.tolist() == dataset.sequences[user][: part.seq_len[row]].tolist()
            # the next event of the user is the click of this moment, so the history ends before it
            clicked = part.candidates[row][part.labels[row] > 0][0]
            assert dataset.sequences.items[at] == clicked
            assert low <= dataset.timestamps[at] < high


def test_histories_of_events_are_what_came_before_them(shops: Path) -> None:
    dataset = read_dataset(shops)
    split = leave_one_out(dataset)
    data = ranking_data(shops, dataset, split, 3, 3, seed=0)
    # u0: books 0, tools 0, books 1, tools 1, books 2, tools 2, books 3, tools 3; the last two are held out
    mine = np.flatnonzero(data.train.user_index == 0)
    names = ["", *dataset.item_ids]
    assert [names[item] for item in data.train.candidates[mine, 0]] == [
        "books:00", "tools:00", "books:01", "tools:01", "books:02", "tools:02",
    ]  # fmt: skip
    assert [names[item] for item in data.train.item_seq[mine[4]]] == ["tools:00", "books:01", "tools:01"]
    assert data.train.scenario_index[mine].tolist() == [0, 1, 0, 1, 0, 1]
    assert [names[item] for item in data.test.item_seq[0]] == ["books:02", "tools:02", "books:03"]
    assert names[data.test.candidates[0, 0]] == "tools:03"
    assert data.test.scenario_index.tolist() == [1] * 6
    assert data.policy["history"] == "events before the moment"


def test_negatives_are_of_the_moments_scenario_and_were_never_touched(shops: Path) -> None:
    dataset = read_dataset(shops)
    data = ranking_data(shops, dataset, leave_one_out(dataset), 3, 5, seed=0)
    again = ranking_data(shops, dataset, leave_one_out(dataset), 3, 5, seed=0)
    np.testing.assert_array_equal(data.test.candidates, again.test.candidates)
    names = ["", *dataset.item_ids]
    for row in range(len(data.valid)):
        scenario = dataset.scenario_names[data.valid.scenario_index[row]]
        negatives = data.valid.candidates[row, 1:]
        assert all(names[item].startswith(scenario) for item in negatives)
        assert not set(negatives.tolist()) & set(dataset.sequences[int(data.valid.user_index[row])].tolist())


def test_what_is_held_out_may_be_a_training_negative(shops: Path) -> None:
    """Sparing it would tell which items are held out."""
    dataset = read_dataset(shops)
    split = leave_one_out(dataset)
    data = ranking_data(shops, dataset, split, 3, 3, seed=0)
    assert not data.shown
    candidates, labels = with_negatives(data.train, data.sampler, 200, np.random.default_rng(0))
    held_out = set(split.test.targets.tolist())
    mine = data.train.user_index == 0
    tools = mine & (data.train.scenario_index == 1)
    assert held_out & set(candidates[tools, 1:].ravel().tolist())
    assert not set(split.train[0].tolist()) & set(candidates[mine, 1:].ravel().tolist())
    assert labels[:, 0].all()
    assert not labels[:, 1:].any()


def test_an_exhausted_scenario_leaves_slots_empty(shops: Path) -> None:
    dataset = read_dataset(shops)
    sampler = ScenarioSampler(dataset, dataset.sequences)
    everything = np.arange(1, dataset.n_items + 1)
    full = ScenarioSampler(dataset, Sequences.from_lists([everything.tolist()] * dataset.n_users))
    users, scenarios = np.array([0, 1]), np.array([0, 1])
    assert not full.draw(users, scenarios, 4, np.random.default_rng(0)).any()
    assert sampler.draw(users, scenarios, 4, np.random.default_rng(0)).all()


def test_a_negative_is_none_of_what_its_moment_showed(shops: Path) -> None:
    """Of twelve books u0 bought 00, 01 and 02 in training, and 03 to 09 were shown: 10 and 11 are left."""
    dataset = read_dataset(shops)
    index_of = {item_id: place for place, item_id in enumerate(dataset.item_ids, start=1)}
    shown = np.array([[index_of[f"books:{n:02}"] for n in range(3, 10)] + [0]])  # and a slot that showed nothing
    label = np.array([[0, 1, 0, 0, 0, 0, 0, 0]], np.int8)
    u0, books = np.array([0]), np.array([dataset.scenario_names.index("books")])
    moment = Requests(u0, books, np.zeros((1, 3), np.int64), np.array([0]), shown, label)
    sampler = ScenarioSampler(dataset, leave_one_out(dataset).train)
    candidates, labels = with_negatives(moment, sampler, 100, np.random.default_rng(0))
    assert candidates.shape == labels.shape == (1, 108)
    np.testing.assert_array_equal(candidates[:, :8], shown)
    np.testing.assert_array_equal(labels[:, :8], label)
    assert set(candidates[0, 8:].tolist()) == {0, index_of["books:10"], index_of["books:11"]}
    assert not labels[:, 8:].any()


def test_per_scenario_each_shops_last_event_is_held_out_and_inputs_are_of_training(shops: Path) -> None:
    dataset = read_dataset(shops)
    split = leave_one_out_per_scenario(dataset)
    names = ["", *dataset.item_ids]
    # u0 has four events in each shop: two train, then validation and test
    assert [names[item] for item in split.train[0]] == ["books:00", "tools:00", "books:01", "tools:01"]
    cases = [row for row in range(len(split.test)) if split.test.user_index[row] == 0]
    assert [names[split.test.targets[row]] for row in cases] == ["books:03", "tools:03"]
    assert [names[split.valid.targets[row]] for row in cases] == ["books:02", "tools:02"]
    assert [names[item] for item in split.test.inputs[cases[0]]][-1] == "books:02"
    assert [names[item] for item in split.valid.inputs[cases[1]]] == ["books:00", "tools:00", "books:01", "tools:01"]
    data = ranking_data(shops, dataset, split, 9, 3, seed=0)
    assert "cross-domain future visible" in data.policy["history"]
    assert data.test.scenario_index[cases].tolist() == [0, 1]


def test_splits_and_data_sets_that_cannot_be_ranked_are_refused(shops: Path, cycle: Path) -> None:
    dataset = read_dataset(shops)
    with pytest.raises(DatasetError, match=r"found global_time without impressions"):
        ranking_data(shops, dataset, SPLITS["global_time"](dataset), 3, 3, seed=0)
    plain = read_dataset(cycle)
    with pytest.raises(DatasetError, match="no column 'scenario'"):
        ranking_data(cycle, plain, leave_one_out(plain), 3, 3, seed=0)


def test_popularity_of_an_item_is_counted_in_training_alone(shops: Path) -> None:
    dataset = read_dataset(shops)

    def popularity(data: Dataset) -> dict[str, int]:
        found = item_attributes(data, leave_one_out(data))
        column = found.names.index("popularity")
        return dict(zip(["", *data.item_ids], found.values[:, column].tolist(), strict=True))

    # tools:03 is held out by u0 and u4, bought first by u1 and u5: two training events, 1 + floor(log2(2))
    assert popularity(dataset)["tools:03"] == 2
    assert popularity(dataset)[""] == 0


def test_of_an_item_that_was_taken_the_event_itself_is_not_counted(shops: Path) -> None:
    dataset = read_dataset(shops)
    found = item_attributes(dataset, leave_one_out(dataset))
    column, row = found.names.index("popularity"), dataset.item_ids.index("tools:03") + 1
    assert found.counts[row] == 2
    assert found.values_before[row, column] == 1  # of the other one: none and one are the same
    others = [place for place in range(len(found.names)) if place != column]
    np.testing.assert_array_equal(found.values_before[:, others], found.values[:, others])
    assert not found.values_before[0].any()


def test_attributes_are_numbered_with_0_for_unknown(shop: Path) -> None:
    dataset = read_dataset(shop)
    found = item_attributes(dataset, global_time(dataset))
    assert found.names == ("category", "brand", "price", "popularity")
    assert found.values.shape == (41, 4)
    assert not found.values[0].any()
    assert (found.values[1:] >= 1).all()
    assert all(found.values[:, place].max() < size for place, size in enumerate(found.sizes))
    prices = np.array(dataset.items.column("price").to_pylist())
    tenth = found.values[1:, 2]
    assert prices[tenth == 1].max() < prices[tenth == 10].min()
