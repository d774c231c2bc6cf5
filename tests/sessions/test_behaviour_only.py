"""What is kept of answers when a model is served without them: by hand, and from runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from intent_fakes import PLAIN
from rich.console import Console
from typer.testing import CliRunner

from models.__main__ import app
from models.behaviour_only import Interval, behaviour_only, bootstrap, verdict
from models.errors import RunError
from models.evaluate import evaluate
from models.train import train


def write_run(folder: Path, *, behaviour: list[int], cached: list[int] | None, test: list[int], seed: int = 1) -> Path:
    """An evaluated run: 0-based ranks of ten held-back prefixes and of test cases, two a user."""
    folder.mkdir()
    policy = {"split": "shuffled_sessions", "history_length": 50}
    report = {"dataset": {}, "policy": policy, "groups": {}, "seed": seed, "headline": ["hr@20", "mrr@20"]}
    (folder / "evaluation.json").write_text(json.dumps(report), encoding="utf-8")
    np.savez(folder / "ranks.npz", ranks=np.array(test))
    held = {"users": np.arange(len(behaviour)), "cuts": np.full(len(behaviour), 2), "behaviour": np.array(behaviour)}
    held["test_users"] = np.repeat(np.arange(len(test) // 2), 2)
    if cached is not None:
        held["cached"] = np.array(cached)
    np.savez(folder / "answered_ranks.npz", **held)
    return folder


FAR = 99


def test_what_is_kept_is_the_gain_without_answers_over_the_gain_with_them(tmp_path: Path) -> None:
    """100 prefixes: plain hits 10, cached 60, behaviour alone the same but ten of these."""
    plain = write_run(tmp_path / "p", behaviour=[0] * 10 + [FAR] * 90, cached=None, test=[0, FAR, FAR, FAR])
    taught = write_run(
        tmp_path / "t", behaviour=[0] * 50 + [FAR] * 50, cached=[0] * 60 + [FAR] * 40, test=[0, 0, FAR, FAR]
    )
    found = behaviour_only([plain], [taught])
    row = found["held_back"]["hr@5"]
    assert (row["plain"], row["behaviour"], row["cached"]) == (0.1, 0.5, 0.6)
    assert row["ratio"][0] == pytest.approx(0.8)
    assert row["ratio"][1] < 0.8 < row["ratio"][2]
    assert row["verdict"] == "not resolved at this n"
    assert found["test"]["hr@5"]["behaviour_gain"][0] == pytest.approx(0.25)
    assert (found["n_held_back"], found["n_test"], found["n_test_users"]) == (100, 4, 2)


def test_a_gain_that_may_be_nothing_has_no_ratio(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "p", behaviour=[0, 0, FAR, FAR], cached=None, test=[0, 0])
    taught = write_run(tmp_path / "t", behaviour=[0, FAR, 0, 0], cached=[0, FAR, 0, 0], test=[0, 0])
    row = behaviour_only([plain], [taught])["held_back"]["hr@5"]
    assert row["cached_gain"][0] > 0
    assert row["ratio"] is None
    assert row["verdict"] == "not resolved at this n"


@pytest.mark.parametrize(
    ("gain", "ratio", "expected"),
    [
        (Interval(0.1, 0.01, 0.2), Interval(0.9, 0.8, 1.1), "keeps at least 80% of the gain"),
        (Interval(0.1, 0.01, 0.2), Interval(0.9, 0.79, 1.1), "not resolved at this n"),
        (Interval(0.1, 0.0, 0.2), Interval(0.9, 0.85, 1.1), "not resolved at this n"),
        (Interval(0.1, 0.01, 0.2), None, "not resolved at this n"),
    ],
)
def test_keeping_is_claimed_only_where_it_is_certain(gain: Interval, ratio: Interval | None, expected: str) -> None:
    assert verdict(gain, ratio) == expected


def test_cases_of_a_user_are_drawn_together_and_all_readings_from_the_same_users() -> None:
    users = np.repeat(np.arange(4), 5)
    hits = (users < 2).astype(float)[None]
    draws = bootstrap({"one": hits, "other": hits + 1}, users)
    assert set(np.round(draws["one"] * 4, 9)) <= {0, 1, 2, 3, 4}  # of twenty cases by themselves more values came
    np.testing.assert_allclose(draws["other"] - draws["one"], 1)


def test_seeds_are_drawn_too() -> None:
    values = {"one": np.array([[0.0, 0.0], [1.0, 1.0]])}
    assert set(bootstrap(values, np.array([0, 1]))["one"]) == {0.0, 0.5, 1.0}


def test_runs_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "p", behaviour=[0, 1], cached=None, test=[0, 0])
    with pytest.raises(RunError, match="seeds are"):
        behaviour_only([plain], [write_run(tmp_path / "s", behaviour=[0, 1], cached=[0, 1], test=[0, 0], seed=2)])
    with pytest.raises(RunError, match="held back other prefixes"):
        behaviour_only([plain], [write_run(tmp_path / "o", behaviour=[0, 1, 2], cached=[0, 1, 2], test=[0, 0])])
    with pytest.raises(RunError, match="no gates that read answers"):
        behaviour_only([plain], [plain])
    (plain / "answered_ranks.npz").unlink()
    with pytest.raises(RunError, match="expected an evaluated run of kind 'llm4sbr'"):
        behaviour_only([plain], [plain])


def test_a_command_tells_what_runs_keep(taught_config: Any, tmp_path: Path, quiet: Console) -> None:
    for name, model in (("plain", PLAIN), ("taught", {})):
        train(taught_config(model, {"max_epochs": 1}), tmp_path / name, quiet)
        evaluate(tmp_path / name, quiet)
    command = ["behaviour-only", "--plain", str(tmp_path / "plain"), "--taught", str(tmp_path / "taught")]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "kept.json")])
    assert done.exit_code == 0, done.output
    assert "| hr@5 |" in done.output
    assert json.loads((tmp_path / "kept.json").read_bytes())["taught"] == ["taught"]
