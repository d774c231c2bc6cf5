from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console
from typer.testing import CliRunner

from models.data.dataset import read_dataset
from models.data.folder import write_dataset
from models.data.splits import SPLITS, leave_one_out, leave_one_out_per_scenario
from models.errors import KnowledgeError
from models.knowledge.cli import app
from models.knowledge.encoders import HashEncoder
from models.knowledge.meta import Told, build_meta, load_meta, quoted_events, usable_users
from models.knowledge.meta_command import told_by_prompts

DAY = 86_400


def _write(folder: Path, events: list[tuple[str, str, str, int | None]]) -> Path:
    """Events (user, shop, item, day) in order of place within a user and shop."""
    place: dict[tuple[str, str], int] = {}
    rows = []
    for user, shop, item, day in events:
        position = place[user, shop] = place.get((user, shop), -1) + 1
        when = None if day is None else day * DAY
        rows.append(
            {"user_id": user, "item_id": f"{shop}:{item}", "timestamp": when, "position": position, "scenario": shop}
        )
    ids = sorted({row["item_id"] for row in rows})
    items = [{"item_id": item, "title": f"thing {item}", "category": item[:4]} for item in ids]
    write_dataset(folder, pa.Table.from_pylist(rows), pa.Table.from_pylist(items))
    return folder


def _shops(folder: Path, late: int = 3) -> Path:
    """ann's books lie before her tools but for the last tools; ben buys books on the day ann does; cid has no clock."""
    books = [("ann", "book", f"{n}", n) for n in range(4)]
    tools = [("ann", "tool", f"{n}", day) for n, day in enumerate((0, 1, late, 9))]
    bens = [("ben", shop, f"{n + 4}", 3 * n) for shop in ("book", "tool") for n in range(4)]
    cids = [("cid", shop, f"{n + 8}", None) for shop in ("book", "tool") for n in range(4)]
    return _write(folder, [*books, *tools, *bens, *cids])


def test_a_prompt_quotes_the_newest_titled_training_events_of_each_scenario(tmp_path: Path) -> None:
    dataset = read_dataset(_shops(tmp_path / "shops"))
    quoted = quoted_events(dataset, leave_one_out_per_scenario(dataset))
    names = [dataset.item_ids[dataset.sequences.items[event] - 1] for event in quoted[0]]
    assert sorted(names) == ["book:0", "book:1", "tool:0", "tool:1"]


@pytest.mark.parametrize(("late", "usable"), [(3, True), (1, False)])
def test_an_answer_is_used_if_all_it_quotes_lies_before_all_that_is_held_out(
    late: int, usable: bool, tmp_path: Path
) -> None:
    """ann: quoted up to day 1; held out per shop are books of days 2 and 3, tools of days `late` and 9."""
    dataset = read_dataset(_shops(tmp_path / "shops", late))
    split = leave_one_out_per_scenario(dataset)
    found = usable_users(dataset, split, dataset, split)
    assert found == {"ann": usable, "ben": True, "cid": False}  # a tie is not before; no clock, no before


def test_with_another_clock_the_same_answers_are_judged_by_what_that_holds_out(tmp_path: Path) -> None:
    """On one clock ben's last two events are of day 9, both shops alike, and his prompt quotes up to day 3."""
    quoted = read_dataset(_shops(tmp_path / "shops"))
    events = [("ben", shop, f"{n + 4}", 3 * n) for n in range(4) for shop in ("book", "tool")]
    rows = [
        {"user_id": user, "item_id": f"{shop}:{item}", "timestamp": day * DAY, "scenario": shop}
        for user, shop, item, day in events
    ]
    write_dataset(tmp_path / "clock", pa.Table.from_pylist(rows), None)
    dataset = read_dataset(tmp_path / "clock")
    found = usable_users(quoted, leave_one_out_per_scenario(quoted), dataset, leave_one_out(dataset))
    assert found == {"ann": False, "ben": True, "cid": False}  # ann is not in it


def test_no_prompt_quotes_what_is_held_out(tmp_path: Path) -> None:
    dataset = read_dataset(_shops(tmp_path / "shops"))
    for name in ("leave_one_out", "leave_one_out_per_scenario"):
        split = SPLITS[name](dataset)
        told = told_by_prompts(dataset, split)
        for cases in (split.valid, split.test):
            for user, target in zip(cases.user_index.tolist(), cases.targets.tolist(), strict=True):
                assert f"thing {dataset.item_ids[target - 1]}" not in told.users[dataset.user_ids[user]]
        # counts of the scenario prompts are those of the training part
        assert f"{len(split.train.items):,}" in "".join(told.scenarios.values()) or sum(
            int(word) for word in _counts(told.scenarios["book"])
        ) == len(split.train.items)


def _counts(prompt: str) -> list[str]:
    return [line.split(" interactions")[0].split()[-1] for line in prompt.split("\n") if " interactions" in line]


def test_vectors_are_written_in_half_precision_and_come_back_centred(tmp_path: Path) -> None:
    dataset = read_dataset(_shops(tmp_path / "shops"))
    split = leave_one_out_per_scenario(dataset)
    told = told_by_prompts(dataset, split)
    usable = usable_users(dataset, split, dataset, split)
    made = build_meta(
        dataset, split, told, usable, tmp_path / "meta", HashEncoder(), Console(quiet=True), future_visible=False
    )
    assert made["answers"]["n_users"] == 3
    assert made["answers"]["n_users_used"] == 2
    assert made["answers"]["n_users_quoted_past_a_held_out_event"] == 1
    assert made["encoder"]["name"] == "hash"
    assert made["test_only"] is True
    with np.load(tmp_path / "meta" / "users.npz") as saved:
        assert saved["vectors"].dtype == np.float16
        assert saved["ids"].tolist() == ["ann", "ben"]
    read = load_meta(tmp_path / "meta", dataset, split.name)
    assert read.row_of_user.tolist() == [1, 2, 0]
    np.testing.assert_allclose(read.user_vectors.sum(0), 0, atol=1e-5)
    np.testing.assert_allclose(read.scenario_vectors.sum(0), 0, atol=1e-5)
    with pytest.raises(KnowledgeError, match="expected 'leave_one_out' of"):
        load_meta(tmp_path / "meta", dataset, "leave_one_out")


def test_hidden_states_are_taken_as_they_are_and_a_missing_scenario_is_named(tmp_path: Path) -> None:
    dataset = read_dataset(_shops(tmp_path / "shops"))
    split = leave_one_out_per_scenario(dataset)
    vectors = {name: np.arange(3, dtype=np.float32) + n for n, name in enumerate(("book", "tool", "ann"))}
    told = Told(
        {"book": vectors["book"], "tool": vectors["tool"]},
        {"ann": vectors["ann"]},
        {"source": "answers"},
        {"name": "decoder", "layer": -1},
    )
    quiet = Console(quiet=True)
    made = build_meta(dataset, split, told, {}, tmp_path / "meta", None, quiet, future_visible=True)
    assert made["encoder"] == {"name": "decoder", "layer": -1}
    assert made["answers"]["cross_domain_future_visible"] is True
    with np.load(tmp_path / "meta" / "scenarios.npz") as saved:
        assert saved["vectors"].tolist() == [[0, 1, 2], [1, 2, 3]]
    with pytest.raises(KnowledgeError, match="nothing was told of scenario tool"):
        build_meta(
            dataset, split, Told({"book": vectors["book"]}, {}, {}), {}, tmp_path / "x", None, quiet,
            future_visible=False,
        )  # fmt: skip


def _answers(folder: Path, dataset: str, values: dict[str, str], split: str | None) -> Path:
    from models.knowledge.answers_folder import ANSWERS, Checked, write_answer_rows
    from models.knowledge.folder import PROVENANCE, sha256_of, write_json

    folder.mkdir()
    rows = [Checked(f"llm4msr:{dataset}:{what}", text, "some-llm", "p", "t") for what, text in values.items()]
    write_answer_rows(folder / ANSWERS, rows)
    told: dict[str, Any] = {
        "content": "answers",
        "paper": "llm4msr",
        "dataset": {"name": dataset, "digest": None},
        "split": split,
        "models": {"some-llm": len(rows)},
        "prompts": None,
        "prompts_digest": "d",
        "files": {ANSWERS: {"sha256": sha256_of(folder / ANSWERS)}},
    }
    write_json(folder / PROVENANCE, told)
    return folder


def test_the_command_takes_answers_and_says_whose_it_used(tmp_path: Path) -> None:
    shops = _shops(tmp_path / "shops")
    texts = {"scenario:book": "books inform", "scenario:tool": "tools build", "user:ann": "ann reads", "user:cid": "c"}
    answers = _answers(tmp_path / "answers", "shops", texts, None)
    words = ["meta", str(shops), "--answers", str(answers), "--out", str(tmp_path / "meta"), "--encoder", "hash"]
    words += ["--split", "leave_one_out_per_scenario"]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 1
    assert "--answers-split" in refused.stderr
    done = CliRunner().invoke(app, [*words, "--answers-split", "leave_one_out_per_scenario"])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "meta" / "knowledge.json").read_text())
    assert found["answers"]["models"] == {"some-llm": 4}
    assert (found["answers"]["n_users"], found["answers"]["n_users_used"]) == (2, 1)
    visible = CliRunner().invoke(app, [*words, "--answers-split", "leave_one_out_per_scenario", "--future-visible"])
    assert visible.exit_code == 0
    assert json.loads((tmp_path / "meta" / "knowledge.json").read_text())["answers"]["n_users_used"] == 2
