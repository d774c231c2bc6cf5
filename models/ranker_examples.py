"""What a ranker learns from and is judged on: moments at which a user saw some items, and which of them were taken.

A data set with `impressions.parquet` says what was shown. Elsewhere each event is a moment, with items of its scenario
that the user never touched beside it. The history of a moment is what the user did before it, and nothing later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.data.dataset import Dataset
from models.data.folder import IMPRESSIONS, read_tables
from models.data.sequences import Sequences
from models.data.splits import SPLITS, Split, global_time_moments
from models.errors import DatasetError
from models.knowledge.prompts.history import training_events
from service.features.ranking import encode_candidates
from service.features.sequence import encode_sequences

# The splits that cut a data set of events; impressions are cut by time.
EVENT_SPLITS: Final = ("leave_one_out", "leave_one_out_per_scenario")


@dataclass(frozen=True, eq=False)
class Requests:
    """n moments. Item indices throughout; 0 is an empty slot or padding."""

    user_index: NDArray[np.int64]  # (n,)
    scenario_index: NDArray[np.int64]  # (n,)
    item_seq: NDArray[np.int64]  # (n, L) left-padded
    seq_len: NDArray[np.int64]  # (n,)
    candidates: NDArray[np.int64]  # (n, C)
    labels: NDArray[np.int8]  # (n, C) 1 was taken

    def __len__(self) -> int:
        return len(self.user_index)


@dataclass(frozen=True, eq=False)
class RankingData:
    """The moments of the three parts of a split."""

    train: Requests
    valid: Requests
    test: Requests
    scenario_names: tuple[str, ...]
    sampler: ScenarioSampler  # of training negatives
    shown: bool  # moments hold what was shown; else what was taken alone, in training
    policy: dict[str, Any]  # how negatives came about, for the report


class ScenarioSampler:
    """Draws items of a scenario that a user has not touched, each as likely as the next."""

    def __init__(self, dataset: Dataset, touched: Sequences) -> None:
        """
        Args:
            touched: items by user that are never drawn for them.
        """
        assert dataset.scenarios is not None
        self._stride = dataset.n_items + 1
        self._pools = [
            np.unique(dataset.sequences.items[dataset.scenarios == scenario])
            for scenario in range(len(dataset.scenario_names))
        ]
        self._touched = np.unique(touched.rows * self._stride + touched.items)

    def draw(
        self, users: NDArray[np.int64], scenarios: NDArray[np.int64], k: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Item indices (n, k); 0 where eight draws in a row hit what the user has touched."""
        found = np.zeros((len(users), k), dtype=np.int64)
        for _ in range(8):
            rows, columns = np.nonzero(found == 0)
            if not len(rows):
                break
            drawn = np.zeros(len(rows), dtype=np.int64)
            for scenario, pool in enumerate(self._pools):
                here = scenarios[rows] == scenario
                drawn[here] = pool[rng.integers(0, len(pool), int(here.sum()))]
            keys = users[rows] * self._stride + drawn
            at = np.searchsorted(self._touched, keys).clip(max=len(self._touched) - 1)
            found[rows, columns] = np.where(self._touched[at] == keys, 0, drawn)
        return found


def ranking_data(
    folder: Path, dataset: Dataset, split: Split, max_seq_len: int, n_test_negatives: int, seed: int
) -> RankingData:
    """Training, validation and test moments of the data set in `folder`.

    Args:
        n_test_negatives: items beside each held-out event, drawn once from `seed`; unread where there are impressions.

    Raises:
        DatasetError: the data set has no scenarios, or the split does not cut it.
    """
    if dataset.scenarios is None:
        raise DatasetError(f"dataset '{dataset.name}': has no column 'scenario', which a ranker needs")
    shown = read_tables(folder).impressions
    if shown is not None and split.name == "global_time":
        return _from_impressions(dataset, split, shown, max_seq_len)
    if split.name not in EVENT_SPLITS:
        raise DatasetError(
            f"dataset '{dataset.name}': a ranker needs {IMPRESSIONS} and the split global_time, or one of "
            f"{', '.join(EVENT_SPLITS)}; found {split.name} {'with' if shown is not None else 'without'} {IMPRESSIONS}"
        )
    return _from_events(dataset, split, max_seq_len, n_test_negatives, seed)


def _from_impressions(dataset: Dataset, split: Split, shown: pa.Table, max_seq_len: int) -> RankingData:
    valid_from, test_from = global_time_moments(dataset)
    assert dataset.timestamps is not None
    users, items, scenarios = (
        _rows_of(shown, column, ids, dataset.name)
        for column, ids in (
            ("user_id", dataset.user_ids),
            ("item_id", dataset.item_ids),
            ("scenario", dataset.scenario_names),
        )
    )
    times = shown.column("timestamp").to_numpy()
    labels = shown.column("label").to_numpy()
    order = np.lexsort((scenarios, times, users))
    users, items, scenarios, times, labels = (a[order] for a in (users, items, scenarios, times, labels))
    starts = np.flatnonzero((np.diff(users, prepend=-1) != 0) | (np.diff(times, prepend=-1) != 0)
                            | (np.diff(scenarios, prepend=-1) != 0))  # fmt: skip
    slots = np.diff(starts, append=len(users))
    place = np.arange(len(users)) - np.repeat(starts, slots)
    candidates = np.zeros((len(starts), int(slots.max())), dtype=np.int64)
    taken = np.zeros(candidates.shape, dtype=np.int8)
    at = np.repeat(np.arange(len(starts)), slots)
    candidates[at, place], taken[at, place] = items + 1, labels

    histories = [
        dataset.sequences[user][: np.searchsorted(_times_of(dataset, user), time, side="left")][-max_seq_len:].tolist()
        for user, time in zip(users[starts].tolist(), times[starts].tolist(), strict=True)
    ]
    everything = _requests(dataset, users[starts], scenarios[starts], histories, candidates, taken, max_seq_len)
    when = times[starts]
    parts = (when < valid_from, (when >= valid_from) & (when < test_from), when >= test_from)
    train, valid, test = (_take(everything, np.flatnonzero(part)) for part in parts)
    policy = {"candidates": "what was shown (impressions.parquet)", "history": "events before the moment"}
    return RankingData(train, valid, test, dataset.scenario_names, _training_sampler(dataset, split), True, policy)


def _from_events(dataset: Dataset, split: Split, max_seq_len: int, n_test_negatives: int, seed: int) -> RankingData:
    assert dataset.scenarios is not None
    places = training_events(dataset, split)
    train = _requests(
        dataset,
        places.rows,
        dataset.scenarios[places.items],
        list(_prefixes(split.train, max_seq_len)),
        split.train.items[:, None],
        np.ones((len(places.items), 1), np.int8),
        max_seq_len,
    )
    everything = ScenarioSampler(dataset, dataset.sequences)
    held_out = held_out_events(dataset, split.name)
    rng = np.random.default_rng(seed)
    parts = []
    for cases, events in zip((split.valid, split.test), held_out, strict=True):
        scenarios = dataset.scenarios[events]
        negatives = everything.draw(cases.user_index, scenarios, n_test_negatives, rng)
        candidates = np.concatenate([cases.targets[:, None], negatives], axis=1)
        labels = np.zeros(candidates.shape, np.int8)
        labels[:, 0] = 1
        histories = [row[-max_seq_len:].tolist() for row in cases.inputs]
        parts.append(_requests(dataset, cases.user_index, scenarios, histories, candidates, labels, max_seq_len))
    policy = {
        "candidates": f"the target and {n_test_negatives} items of its scenario that the user never touched",
        "negatives_seed": seed,
        "history": "events before the moment"
        if split.name == "leave_one_out"
        else "training events, and those of the scenario before the moment: cross-domain future visible",
    }
    valid, test = parts
    return RankingData(train, valid, test, dataset.scenario_names, _training_sampler(dataset, split), False, policy)


def _training_sampler(dataset: Dataset, split: Split) -> ScenarioSampler:
    """What is held out is not spared as a training negative: that would tell which items are."""
    return ScenarioSampler(dataset, split.train)


def held_out_events(dataset: Dataset, split: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places in `dataset.sequences.items` of the validation and of the test targets, case by case."""
    places = Sequences(np.arange(dataset.n_interactions), dataset.sequences.offsets)
    again = SPLITS[split](dataclasses.replace(dataset, sequences=places))
    return again.valid.targets, again.test.targets


def with_negatives(
    requests: Requests, sampler: ScenarioSampler, k: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Candidates and labels (n, C + k): the requests' own C, and k fresh negatives that are none of them.

    A draw that hits one of the request's own leaves its slot empty.
    """
    negatives = sampler.draw(requests.user_index, requests.scenario_index, k, rng)
    for own in requests.candidates.T:
        negatives[negatives == own[:, None]] = 0
    candidates = np.concatenate([requests.candidates, negatives], axis=1)
    return candidates, np.concatenate([requests.labels, np.zeros(negatives.shape, np.int8)], axis=1)


def _requests(
    dataset: Dataset,
    users: NDArray[np.int64],
    scenarios: NDArray[np.int64],
    histories: list[list[int]],
    candidates: NDArray[np.int64],
    labels: NDArray[np.int8],
    max_seq_len: int,
) -> Requests:
    """The moments as the tensors that serving makes too: same functions, same cut, same padding."""
    features = encode_sequences(histories, max_seq_len, length=max_seq_len, n_items=dataset.n_items)
    filled = [row[row > 0].tolist() for row in candidates]
    slots = encode_candidates(filled, slots=candidates.shape[1], n_items=dataset.n_items)
    packed = np.zeros(slots.shape, np.int8)
    packed[slots > 0] = labels[candidates > 0]  # both in row order
    return Requests(users, scenarios, features.item_seq, features.seq_len, slots, packed)


def _take(requests: Requests, rows: NDArray[np.int64]) -> Requests:
    return Requests(*(getattr(requests, name)[rows] for name in Requests.__dataclass_fields__))


def _prefixes(sequences: Sequences, max_seq_len: int) -> Iterator[list[int]]:
    """What came before each entry of `sequences.items`, the newest `max_seq_len`."""
    for row in sequences:
        items = row.tolist()
        for place in range(len(items)):
            yield items[max(0, place - max_seq_len) : place]


def _times_of(dataset: Dataset, user: int) -> NDArray[np.int64]:
    assert dataset.timestamps is not None
    offsets = dataset.sequences.offsets
    return dataset.timestamps[offsets[user] : offsets[user + 1]]


def _rows_of(table: pa.Table, column: str, ids: tuple[str, ...], dataset: str) -> NDArray[np.int64]:
    found = pc.index_in(table.column(column).cast(pa.string()), value_set=pa.array(ids, pa.string()))
    if found.null_count:
        raise DatasetError(
            f"dataset '{dataset}': column '{column}' of {IMPRESSIONS} names what no interaction does "
            f"in {found.null_count:,} rows"
        )
    rows: NDArray[np.int64] = found.to_numpy().astype(np.int64)
    return rows
