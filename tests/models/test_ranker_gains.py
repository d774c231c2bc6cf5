from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.errors import RunError
from models.ranker_gains import read_entries, score_gains, z_gains
from models.ranker_table import ranker_parts


def _run(folder: Path, scores: list[float], labels: list[int] | None = None, **more: list[float]) -> Path:
    """Two users with two moments each, one in each scenario, a positive and a negative in each."""
    folder.mkdir()
    moments = np.repeat(np.arange(4), 2)
    told = np.array([True, True, False, False])
    np.savez(
        folder / "scores.npz",
        moment=moments,
        user=np.repeat([0, 0, 1, 1], 2),
        scenario=np.repeat([0, 1, 0, 1], 2),
        label=np.array(labels or [1, 0] * 4, dtype=np.int8),
        **{"score:true": np.array(scores, dtype=np.float32), "group:overall": np.ones(4, bool), "group:told": told},
        **{f"score:{choice}": np.array(found, dtype=np.float32) for choice, found in more.items()},
    )
    return folder


def test_a_difference_is_that_of_the_mean_auc_of_the_scenarios(tmp_path: Path) -> None:
    better = _run(tmp_path / "a", [2, 1, 2, 1, 2, 1, 0, 1])
    worse = _run(tmp_path / "b", [0, 1, 2, 1, 2, 1, 0, 1])
    # scenario 0: positives 2, 2 over 1, 1: 1.0; positives 0, 2: 0.5. Scenario 1 is the same in both.
    found = score_gains((better,), (worse,))
    assert found["overall"]["auc"]["absolute"] == pytest.approx(0.25)
    assert found["told"]["auc"]["absolute"] == pytest.approx(0.5)  # 1.0 against 0.0 in scenario 0
    assert found["overall"]["gauc"]["absolute"] == pytest.approx(0.25)  # one of four pairs turned
    assert found["told"]["auc"]["low"] == found["told"]["auc"]["high"] == pytest.approx(0.5)  # one user told
    assert found["overall"]["logloss"]["absolute"] < 0


def test_a_run_gains_nothing_over_itself(tmp_path: Path) -> None:
    run = _run(tmp_path / "a", [2, 1, 0, 1, 2, 1, 0, 1])
    for metrics in score_gains((run, run), (run, run)).values():
        for interval in metrics.values():
            assert list(interval.values()) == [0, 0, 0]


def test_choices_of_z_are_held_to_each_other(tmp_path: Path) -> None:
    good, worse = [2.0, 1, 2, 1, 2, 1, 0, 1], [0.0, 1, 2, 1, 2, 1, 0, 1]
    found = z_gains((_run(tmp_path / "a", good, predicted=worse, default=worse),))
    assert list(found) == ["predicted over default", "true over default", "true over predicted"]
    by_pair = {pair: gain["overall"]["auc"]["absolute"] for pair, gain in found.items()}
    assert by_pair == pytest.approx(dict(zip(found, (0.0, 0.25, 0.25), strict=True)))


def test_runs_judged_on_other_candidates_are_not_compared(tmp_path: Path) -> None:
    one, other = _run(tmp_path / "a", [1.0] * 8), _run(tmp_path / "b", [1.0] * 8, [0, 1] * 4)
    with pytest.raises(RunError, match="was judged on other candidates"):
        score_gains((one,), (other,))
    assert read_entries(one).groups["told"].tolist() == [True] * 4 + [False] * 4


def test_a_study_shows_scenarios_slices_differences_and_choices_of_z() -> None:
    def figures(auc: float) -> dict[str, Any]:
        return {metric: {"mean": auc, "std": None} for metric in ("auc", "gauc", "logloss")}

    groups = ("overall", "told", "untold", "home", "told:home", "untold:home")
    test = {group: {"n": 3, **figures(0.7)} for group in groups}
    gain = {group: {m: {"absolute": 0.01, "low": 0.0, "high": 0.02} for m in ("auc", "logloss")} for group in groups}
    row = {
        "variant": "llm4msr",
        "headline": ["auc", "gauc"],
        "test": test,
        "z": dict.fromkeys(("true", "default"), test),
        "z_gain": {"true over default": gain},
        "gain": {"test": gain, "n_seeds": 3},
        "cost": {"seconds_per_epoch": 1.0},
    }
    waiting = {"variant": "plain", "headline": ["auc", "gauc"]}
    parts = ranker_parts([row, waiting], [["llm4msr", "3"], ["plain", "0 of 3"]])
    captions, heads, lines = zip(*parts, strict=True)
    assert len(captions) == 5
    assert heads[0][2:6] == ["auc overall", "auc told", "auc untold", "auc home"]
    assert lines[0][1][2:] == ["not run"] * (len(heads[0]) - 2)
    assert (heads[1], lines[1]) == (
        ["model", "home auc", "home gauc", "home logloss"],
        [["llm4msr", "0.7000", "0.7000", "0.7000"]],
    )
    assert lines[2][0][:4] == ["llm4msr", "control", "3", "+0.0100 [+0.0000, +0.0200]"]
    assert [line[1] for line in lines[3]] == ["true", "default"]
    assert lines[4][0][:3] == ["llm4msr", "true over default", "+0.0100 [+0.0000, +0.0200]"]
