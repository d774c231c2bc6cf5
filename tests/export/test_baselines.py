from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.baselines import random_table, write_baseline, write_noop, write_popularity, write_topk_only
from export.errors import ExportError
from models.errors import DatasetError
from service.inference.loader import load

IDS = ["a", "b", "c", "d", "e"]


def recommend(path: Path, history: list[int], k: int = 5) -> list[str]:
    loaded = load(path, intra_op_threads=1, device="cpu")
    queries = loaded.retriever.encode([history])
    indices, _ = loaded.topk.search(queries, k, [np.empty(0, np.int64)])[0]
    return [loaded.artefact.item_ids[index] for index in indices]


def test_noop_answers_with_the_first_items_whatever_the_history(tmp_path: Path) -> None:
    path = write_noop(tmp_path, item_ids=IDS, dim=3)
    assert recommend(path, []) == IDS
    assert recommend(path, [5, 5, 5]) == IDS


def test_popularity_ranks_by_training_count_with_ties_to_the_lowest_id(tmp_path: Path) -> None:
    path = write_popularity(tmp_path, item_ids=IDS, counts=[1, 7, 0, 7, 2])
    assert recommend(path, [3]) == ["b", "d", "e", "a", "c"]
    assert recommend(path, []) == ["b", "d", "e", "a", "c"]


def test_topk_only_asks_for_items_like_the_last_one(tmp_path: Path) -> None:
    table = np.array([[0, 0], [1, 0], [2, 0], [0, 3], [1, 1], [-1, 0]], np.float32)
    path = write_topk_only(tmp_path, item_ids=IDS, table=table)
    assert recommend(path, [3, 1]) == ["b", "a", "d", "c", "e"]
    assert recommend(path, [1, 3]) == ["c", "d", "a", "b", "e"]


def test_items_that_are_not_available_stay_out(tmp_path: Path) -> None:
    path = write_popularity(tmp_path, item_ids=IDS, counts=[5, 4, 3, 2, 1], available=[False, True, True, True, False])
    assert recommend(path, []) == ["b", "c", "d"]


def test_a_random_table_is_the_same_for_the_same_seed() -> None:
    table = random_table(9, dim=4, seed=1)
    assert table.shape == (10, 4)
    assert table.dtype == np.float32
    assert not table[0].any()
    np.testing.assert_array_equal(table, random_table(9, dim=4, seed=1))
    assert (table[1:] != random_table(9, dim=4, seed=2)[1:]).all()


def test_a_baseline_of_a_dataset_counts_the_training_part_only(dataset_folder: Path, tmp_path: Path) -> None:
    artefact = load(write_baseline("popularity", dataset_folder, tmp_path), intra_op_threads=1, device="cpu").artefact
    # 30 users walk 4 + n % 5 steps, the last two of each are held out.
    assert artefact.popularity.sum() == sum(2 + user % 5 for user in range(30))
    assert artefact.manifest.dataset["name"] == "cycle"
    assert artefact.manifest.dataset["split"] == "leave_one_out"
    assert artefact.titles[:3] == [None, None, "thing 1"]


def test_an_unknown_split_names_the_known_ones(dataset_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="split is 'random', expected one of leave_one_out"):
        write_baseline("noop", dataset_folder, tmp_path, split="random")


def test_a_folder_that_is_no_dataset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        write_baseline("noop", tmp_path, tmp_path)
