"""Items held out of training, added back by their texts, against retraining and controls."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from models import new_items, runs
from models.config import RunConfig
from models.data.dataset import read_dataset, write_dataset
from models.data.splits import leave_one_out
from models.errors import RunError
from models.knowledge.encoders import HashEncoder
from models.knowledge.store import build_knowledge, load_knowledge
from models.new_items import COUNTED, POPULARITY, RETRAINED, TEXT, as_markdown, measure
from models.new_items_data import draw, prepare
from models.train import train

QUIET = Console(quiet=True)
N_ITEMS, N_USERS = 20, 40


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 users walk a 20-item cycle for 5 to 8 steps; item 19 has no text, item 'never' no interaction."""
    folder = tmp_path_factory.mktemp("new-items")
    rows = [
        {"user_id": f"u{user:02}", "item_id": f"i{(user + step) % N_ITEMS:02}", "timestamp": 1000 + step}
        for user in range(N_USERS)
        for step in range(5 + user % 4)
    ]
    items = [{"item_id": f"i{n:02}", "title": f"thing {n}" if n < 19 else None} for n in range(N_ITEMS)]
    items.append({"item_id": "never", "title": "a thing nobody chose"})
    write_dataset(folder / "cycle", pa.Table.from_pylist(rows), pa.Table.from_pylist(items))
    dataset = read_dataset(folder / "cycle")
    build_knowledge(dataset, leave_one_out(dataset), folder / "knowledge", HashEncoder(), console=QUIET)
    train(config_of(folder), folder / "run", QUIET)
    return folder / "run"


def config_of(folder: Path, **model: object) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "cycle",
            "data": {"dataset": folder / "cycle", "knowledge": folder / "knowledge"},
            "model": {"hidden_size": 8, "max_seq_len": 5, "n_blocks": 1, "n_teachers": 3, **model},
            "train": {"batch_size": 8, "max_epochs": 2, "device": "cpu"},
            "loss": {"kind": "sampled_softmax", "n_negatives": 8},
        }
    )


def test_nothing_that_is_trained_on_knows_of_the_held_out_items(run_folder: Path, tmp_path: Path) -> None:
    config = runs.read_run_config(run_folder)
    prepared = prepare(config, runs.load_inputs(config), tmp_path, 0.2, 7, QUIET)
    full = read_dataset(config.data.dataset)
    gone = {full.item_ids[item - 1] for item in prepared.held_out}
    assert len(gone) == 4
    assert gone == set(json.loads((tmp_path / "held_out.json").read_text())["item_ids"])
    without = read_dataset(prepared.config.data.dataset)
    assert set(without.item_ids) == set(full.item_ids) - gone
    names = ["", *full.item_ids]
    left = [names[item] for item in full.sequences.items if names[item] not in gone]
    assert sorted(left) == sorted(without.item_ids[item - 1] for item in without.sequences.items)
    knowledge = load_knowledge(tmp_path / "knowledge", without, "leave_one_out")  # of this dataset, or it is refused
    # A user whose training part lost an item has another text than before, the others keep theirs.
    before = runs.load_inputs(config).knowledge
    assert before is not None
    split, split_before = leave_one_out(without), leave_one_out(full)
    for user, history in enumerate(split.train):
        same = [names[item] for item in split_before.train[user]] == [without.item_ids[item - 1] for item in history]
        assert np.array_equal(knowledge.user_vectors[user], before.user_vectors[user]) == same


def test_items_without_a_text_or_an_interaction_are_not_drawn(run_folder: Path) -> None:
    dataset = read_dataset(runs.read_run_config(run_folder).data.dataset)
    drawn = draw(dataset, 0.9, 7)
    assert not {"i19", "never"} & {dataset.item_ids[item - 1] for item in drawn}
    np.testing.assert_array_equal(draw(dataset, 0.2, 7), draw(dataset, 0.2, 7))
    assert not np.array_equal(draw(dataset, 0.2, 7), draw(dataset, 0.2, 8))


@pytest.fixture(scope="module")
def measured(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("measured")
    return folder, measure(run_folder, folder, 0.2, 7, QUIET)


def test_every_row_is_asked_about_the_same_held_out_targets(
    run_folder: Path, measured: tuple[Path, dict[str, object]]
) -> None:
    folder, report = measured
    full = runs.load_run(run_folder)
    gone = [
        full.dataset.item_ids.index(one) + 1 for one in json.loads((folder / "held_out.json").read_text())["item_ids"]
    ]
    n_new = int(np.isin(full.split.test.targets, gone).sum())
    position = (
        np.arange(len(full.dataset.sequences.items)) - full.dataset.sequences.offsets[full.dataset.sequences.rows]
    )
    n_every = int((np.isin(full.dataset.sequences.items, gone) & (position > 0)).sum())
    assert report["cases"] == {"new": n_new, "every": n_every, "old": N_USERS - n_new}
    rows = report["rows"]
    assert isinstance(rows, dict)
    assert {TEXT, RETRAINED, POPULARITY, COUNTED, "semantic half alone", "text of another new item"} <= rows.keys()
    assert rows[RETRAINED]["every"] is None
    assert rows[TEXT]["every"]["hr@20"] > 0
    # Nobody chose a new item yet, and there are enough others: popularity never shows one among the first ten.
    assert rows[POPULARITY]["new"]["hr@10"] == 0
    assert rows[COUNTED]["new"]["hr@20"] > 0


def test_the_figures_of_retraining_are_those_of_the_run_on_these_targets(
    run_folder: Path, measured: tuple[Path, dict[str, object]]
) -> None:
    from models.ranking import rank_cases

    folder, report = measured
    full = runs.load_run(run_folder)
    gone = [
        full.dataset.item_ids.index(one) + 1 for one in json.loads((folder / "held_out.json").read_text())["item_ids"]
    ]
    ranks = rank_cases(full.model, full.split.test).ranks[np.isin(full.split.test.targets, gone)]
    assert report["rows"][RETRAINED]["new"]["hr@10"] == pytest.approx((ranks < 10).mean())  # type: ignore[index]


def test_report_and_table_are_written_and_agree(measured: tuple[Path, dict[str, object]]) -> None:
    folder, report = measured
    assert json.loads((folder / "new-items.json").read_text()) == json.loads(json.dumps(report))
    table = (folder / "new-items.md").read_text()
    assert table == as_markdown(report)
    assert f"| {TEXT} | {report['rows'][TEXT]['new']['hr@20']:.4f} |" in table  # type: ignore[index]


def test_a_second_call_prepares_and_trains_nothing(
    run_folder: Path, measured: tuple[Path, dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, report = measured
    monkeypatch.setattr("models.train._Trainer", None)
    monkeypatch.setattr("models.new_items_data.write_dataset", None)
    again = measure(run_folder, folder, 0.2, 7, QUIET)
    assert again["rows"] == report["rows"]


def test_another_share_or_a_run_without_texts_is_refused(
    run_folder: Path, measured: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    folder, _ = measured
    with pytest.raises(RunError, match=r"held_out.json: has another share than this call"):
        measure(run_folder, folder, 0.1, 7, QUIET)
    plain = config_of(run_folder.parent, views=["collaborative"])
    with pytest.raises(RunError, match="no semantic view"):
        prepare(plain, runs.load_inputs(plain), tmp_path, 0.2, 7, QUIET)
    assert not list(tmp_path.iterdir())


def test_rows_of_new_items_stand_where_their_ids_are_looked_up(
    run_folder: Path, measured: tuple[Path, dict[str, object]]
) -> None:
    folder, _ = measured
    full, without = runs.load_run(run_folder), runs.load_run(folder / "run")
    gone = np.array(
        [full.dataset.item_ids.index(one) + 1 for one in json.loads((folder / "held_out.json").read_text())["item_ids"]]
    )
    places = new_items._places(full, without, gone)
    n_old = without.dataset.n_items
    assert places[0] == 0
    assert places[gone].tolist() == [n_old + 1, n_old + 2, n_old + 3, n_old + 4]
    for item, place in enumerate(places[1:], 1):
        if place <= n_old:
            assert without.dataset.item_ids[place - 1] == full.dataset.item_ids[item - 1]
