"""Item-kNN and VMIS-kNN against numbers worked by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from export.errors import ExportError
from export.run import draft_of
from models.config import NeighboursConfig
from models.data.held_out import EvalCases
from models.data.sequences import Sequences
from models.evaluate import evaluate
from models.ranking import rank_cases
from models.runs import load_run
from models.sessions.neighbours import ItemNeighbours, SessionNeighbours
from models.train import train

# Items 1 to 5; sessions oldest first.
TRAIN = Sequences.from_lists([[1, 2], [1, 2, 3, 2], [2, 4], [1, 3], []])
NOTHING = -math.inf


def _config(**settings: Any) -> NeighboursConfig:
    return NeighboursConfig.model_validate({"kind": "neighbours", **settings})


def _sessions(n_recent: int = 10, n_neighbours: int = 10, clicks: int = 3) -> SessionNeighbours:
    config = _config(n_recent=n_recent, n_neighbours=n_neighbours, max_seq_len=clicks)
    return SessionNeighbours(config, TRAIN, 5, np.arange(5))


def _scores(model: ItemNeighbours | SessionNeighbours, history: list[int]) -> list[float]:
    found: list[float] = model.score_histories([np.array(history)])[0].tolist()
    return found


def test_items_are_alike_by_the_sessions_they_share() -> None:
    # Sessions with 1: three, with 2: three, with 3: two, with 4: one. 1 and 2 share two, 1 and 3 two, 2 and 3 one.
    model = ItemNeighbours(_config(method="items"), TRAIN, 5)
    assert _scores(model, [4, 1]) == pytest.approx([NOTHING, NOTHING, 2 / 3, 2 / math.sqrt(6), NOTHING, NOTHING])
    assert _scores(model, [2])[3:5] == pytest.approx([1 / math.sqrt(6), 1 / math.sqrt(3)])


def _long_enough(model: SessionNeighbours) -> np.ndarray:
    """idf by hand: nine clicks of a session and an item, repeats once. 1: 3, 2: 3, 3: 2, 4: 1, of 9 clicks."""
    return np.log(9 / np.array([3, 3, 2, 1]))


@pytest.fixture
def _no_session_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.sessions.neighbours._LONGEST", 1.0)


@pytest.mark.usefixtures("_no_session_is_too_long")
def test_sessions_vote_by_what_they_share_and_how_recently_it_was_clicked() -> None:
    model = _sessions()
    # After 1, 2: place of 2 is 2 of 2 distinct items, of 1 is 1 of 2. Similarities: {1,2} 1.5, {1,2,3} 1.5, {2,4} 1,
    # {1,3} 0.5. The newest shared click is 2 (weight 0.9) but for {1,3}, where it is 1 (0.8).
    idf = _long_enough(model)
    votes = [1.5 * 0.9, 1.5 * 0.9, 1.0 * 0.9, 0.5 * 0.8]
    by_hand = [
        (votes[0] + votes[1] + votes[3]) * idf[0],  # item 1
        NOTHING,  # the newest click is no answer
        (votes[1] + votes[3]) * idf[2],
        votes[2] * idf[3],
    ]
    assert _scores(model, [1, 2])[1:5] == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.usefixtures("_no_session_is_too_long")
def test_only_the_newest_sessions_and_the_nearest_of_them_vote() -> None:
    idf = _long_enough(_sessions())
    newest = _sessions(n_recent=2)  # {2,4} and {1,3}
    assert _scores(newest, [1, 2])[1:5] == pytest.approx([0.4 * idf[0], NOTHING, 0.4 * idf[2], 0.9 * idf[3]], rel=1e-5)
    nearest = _sessions(n_neighbours=1)  # {1,2} and {1,2,3} tie: the newer one
    assert _scores(nearest, [1, 2])[1:5] == pytest.approx([1.35 * idf[0], NOTHING, 1.35 * idf[2], NOTHING], rel=1e-5)


@pytest.mark.usefixtures("_no_session_is_too_long")
def test_older_clicks_than_asked_for_do_not_count_and_a_repeat_counts_where_it_is_newest() -> None:
    assert _scores(_sessions(clicks=1), [4, 1, 2]) == pytest.approx(_scores(_sessions(), [2]))
    # 2 1 2: two distinct items, 2 at place 3, 1 at place 2.
    idf = _long_enough(_sessions())
    assert _scores(_sessions(), [2, 1, 2])[4] == pytest.approx(1.5 * 0.9 * idf[3], rel=1e-5)


def test_the_longest_sessions_are_left_out_of_the_index() -> None:
    lists = [[1, 2]] * 300 + [list(range(1, 6)) * 4]
    model = SessionNeighbours(_config(), Sequences.from_lists(lists), 5, np.arange(301))
    assert _scores(model, [1])[3:] == [NOTHING] * 3


def test_an_item_that_nobody_clicked_has_no_neighbours() -> None:
    for model in (ItemNeighbours(_config(method="items"), TRAIN, 5), _sessions()):
        assert _scores(model, [5]) == [NOTHING] * 6


def test_what_is_no_answer_is_a_miss_and_never_a_lucky_tie() -> None:
    cases = EvalCases(np.arange(2), Sequences.from_lists([[1], [5]]), np.array([3, 1]), None)
    ranks = rank_cases(ItemNeighbours(_config(method="items"), TRAIN, 5), cases, filter_seen=False).ranks
    assert ranks.tolist() == [0, 6]


@pytest.mark.parametrize("method", ["items", "sessions"])
def test_a_baseline_is_run_and_judged_like_a_model_and_not_exported(
    method: str, config_of: Any, walks: Path, tmp_path: Path, quiet: Console
) -> None:
    config = config_of().model_copy(update={"model": _config(method=method)})
    summary = train(config, tmp_path / "run", quiet)
    assert (summary["epochs"], summary["n_parameters"]) == (1, 0)
    report = evaluate(tmp_path / "run", quiet)
    assert report["headline"] == ["hr@20", "mrr@20"]
    assert report["test"]["overall"]["hr@20"] > 0.9  # twelve items, and a walk's neighbours share sessions with it
    with pytest.raises(ExportError, match="no query vectors"):
        draft_of(load_run(tmp_path / "run"))
