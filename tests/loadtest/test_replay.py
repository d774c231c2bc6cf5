from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from http_stand_in import FakeService
from typer.testing import CliRunner

from loadtest.cli import app
from loadtest.client import Client
from loadtest.errors import InputError, ServiceError
from loadtest.predictions import (
    Case,
    Served,
    check_against_dataset,
    check_against_evaluation,
    compare,
    list_gap,
    list_metrics,
    read_evaluation,
    read_predictions,
)
from loadtest.replay import Replay, promises, replay

ONE: Any = {"n_users": 1, "min_same_share": 1.0}


def case(items: str = "abcd", scores: tuple[float, ...] = (4.0, 3.0, 2.0, 1.0), target: str = "b") -> Case:
    return Case("u", target, ("h",), tuple(items), scores)


def served(items: str, scores: tuple[float, ...] = (4.0, 3.0, 2.0)) -> Served:
    return Served(200, tuple(items), scores, "model")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("a", (1, 1, 1)),
        ("b", (1, 1, 1 / math.log2(3))),
        ("c", (1, 1, 0.5)),
        ("d", (0, 0, 0)),
        ("x", (0, 0, 0)),
        # Two of four found, in places 1 and 3; no more than three places to fill.
        ("acdx", (0.5, 1, 1.5 / (1.5 + 1 / math.log2(3)))),
        ("bx", (0.5, 1, (1 / math.log2(3)) / (1 + 1 / math.log2(3)))),
    ],
)
def test_metrics_of_a_list_by_hand(wanted: str, expected: tuple[float, float, float]) -> None:
    assert list_metrics("abcd", list(wanted), 3) == pytest.approx(expected)


def test_users_with_several_targets_have_a_recall_as_well() -> None:
    both = Case("u", "a", ("h",), tuple("abcd"), (4.0, 3.0, 2.0, 1.0), targets=("a", "x"))
    found = compare([both], [served("abc")], k=3, tie_tolerance=0)
    assert found["served"] == found["offline"]
    assert (found["served"]["recall@3"], found["served"]["hr@3"]) == (0.5, 1.0)


def evaluation_of(n: int, **metrics: float) -> str:
    overall = {"n": n, **{name.replace("_", "@"): value for name, value in metrics.items()}}
    return json.dumps({"policy": {"split": "user_disjoint"}, "test": {"overall": overall}})


def test_predictions_are_held_to_the_evaluation_beside_them(tmp_path: Path) -> None:
    write_predictions(tmp_path / "predictions.parquet", targets=[["a", "x"]])
    (only,) = read_predictions(tmp_path, k=2)
    assert only.wanted == ("a", "x")
    gain = 1 / (1 + 1 / math.log2(3))
    (tmp_path / "evaluation.json").write_text(evaluation_of(1, recall_2=0.5, hr_2=1.0, ndcg_2=gain, recall_50=0.9))
    evaluation = read_evaluation(tmp_path, k=2)
    assert evaluation == read_evaluation(tmp_path / "predictions.parquet", k=2)
    assert evaluation is not None
    assert (evaluation["split"], evaluation["users"]) == ("user_disjoint", 1)
    checked = check_against_evaluation([only], evaluation, k=2)
    assert checked["complete"] is True
    assert promises(compare([only], [served("ab", (2.0, 1.0))], k=2, tie_tolerance=0), None, **ONE, evaluated=checked)[
        "the file gives the figures of its evaluation"
    ]


@pytest.mark.parametrize("told", [{"n": 2, "recall_2": 0.5}, {"n": 1, "recall_2": 0.4}])
def test_predictions_of_another_evaluation_are_told_apart(tmp_path: Path, told: dict[str, Any]) -> None:
    write_predictions(tmp_path / "predictions.parquet", targets=[["a", "x"]])
    (tmp_path / "evaluation.json").write_text(evaluation_of(**told))
    evaluation = read_evaluation(tmp_path, k=2)
    assert evaluation is not None
    assert check_against_evaluation(read_predictions(tmp_path, k=2), evaluation, k=2)["complete"] is False


def test_a_run_without_an_evaluation_is_replayed_by_its_predictions_alone(tmp_path: Path) -> None:
    assert read_evaluation(tmp_path, k=2) is None
    (tmp_path / "evaluation.json").write_text("{}")
    with pytest.raises(InputError, match="is not the report of an evaluation"):
        read_evaluation(tmp_path, k=2)


def test_the_same_list_has_no_gap() -> None:
    assert list_gap(case(), served("abc"), 3) is None


def test_a_swap_has_the_gap_of_the_swapped_items() -> None:
    assert list_gap(case(scores=(4.0, 3.0, 2.5, 1.0)), served("acb"), 3) == 0.5


def test_an_item_from_outside_the_expected_list_brings_its_served_score() -> None:
    assert list_gap(case(), served("abx", (4.0, 3.0, 1.75)), 3) == 0.25


def test_a_shorter_list_has_an_infinite_gap() -> None:
    assert list_gap(case(), served("ab"), 3) == math.inf


def test_a_comparison_by_hand() -> None:
    cases = [case(target="a"), case(target="b"), case(scores=(4.0, 3.0, 3.0, 1.0), target="b"), case(), case()]
    replies = [served("abc"), served("bac"), served("acb", (4.0, 3.0, 3.0)), served("abd"), Served(503)]
    found = compare(cases, replies, k=3, tie_tolerance=1e-6)
    assert (found["users"], found["answered"], found["statuses"]) == (5, 4, {"200": 4, "503": 1})
    second, third = 1 / math.log2(3), 0.5
    assert found["served"] == pytest.approx({"hr@3": 1.0, "ndcg@3": (1 + 1 + third + second) / 4})
    assert found["offline"] == pytest.approx({"hr@3": 1.0, "ndcg@3": (1 + 3 * second) / 4})
    assert found["same_list_share"] == 0.25
    assert found["same_set_share"] == 0.75
    # The second swaps 4 and 3, the third a tie, the fourth puts d (1.0) for c (2.0).
    assert (found["differing_users"], found["differing_beyond_ties"]) == (3, 2)
    assert found["score_gap"]["max"] == 1.0


def test_a_comparison_of_nothing_answered_is_no_success() -> None:
    found = compare([case()], [Served(503)], k=3, tie_tolerance=0)
    assert found["same_list_share"] == 0.0
    assert found["served"] == {"hr@3": None, "ndcg@3": None}
    assert not all(promises(found, None, n_users=1, min_same_share=0.9).values())


def write_predictions(path: Path, **columns: list[Any]) -> Path:
    good: dict[str, list[Any]] = {
        "user_id": ["u"],
        "target": ["t"],
        "history": [["h1", "h2"]],
        "items": [["a", "b"]],
        "scores": [[2.0, 1.0]],
    }
    pq.write_table(pa.table({**good, **columns}), path)
    return path


def test_predictions_are_read(tmp_path: Path) -> None:
    (row,) = read_predictions(write_predictions(tmp_path / "p.parquet"), k=2)
    assert row == Case("u", "t", ("h1", "h2"), ("a", "b"), (2.0, 1.0))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"items": [["a"]]}, "row 0 .* has 1 items and 2 scores"),
        ({"items": [["a"]], "scores": [[1.0]]}, "at least 2"),
    ],
)
def test_predictions_that_do_not_add_up_are_refused(
    tmp_path: Path, columns: dict[str, list[Any]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_predictions(write_predictions(tmp_path / "p.parquet", **columns), k=2)


def test_predictions_without_a_column_are_refused_by_its_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_id": ["u"]}), tmp_path / "p.parquet")
    with pytest.raises(InputError, match="target, history, items, scores"):
        read_predictions(tmp_path / "p.parquet", k=2)


def test_cases_are_checked_against_the_dataset(tmp_path: Path) -> None:
    columns = {"user_id": ["u", "u", "u", "v", "v", "w", "w", "w"], "item_id": list("abcabxyz")}
    pq.write_table(pa.table(columns), tmp_path / "interactions.parquet")
    whole = [Case("u", "c", ("a", "b"), (), ()), Case("w", "z", ("x", "y"), (), ())]
    assert check_against_dataset(whole, tmp_path) == {
        "users": 2,
        "repeated_users": 0,
        "missing_users": 0,
        "foreign_users": 0,
        "other_targets": 0,
        "other_histories": 0,
        "complete": True,
    }
    wrong = [Case("u", "b", ("b", "a"), (), ()), Case("v", "b", ("a",), (), ())]
    found = check_against_dataset(wrong, tmp_path)
    assert (found["missing_users"], found["foreign_users"], found["other_targets"], found["other_histories"]) == (
        1,
        1,
        1,
        1,
    )
    assert found["complete"] is False


def cases_of(service: FakeService, n: int) -> list[Case]:
    """Cases that the stand-in answers exactly: its fixed order without the item of the history."""
    ids = service.item_ids
    cases = []
    for row in range(n):
        items = tuple(item_id for item_id in ids if item_id != ids[row])[:10]
        scores = tuple(1.0 - ids.index(item_id) / 100 for item_id in items)
        cases.append(Case(f"u{row}", ids[(row + 1) % 40], (ids[row],), items, scores))
    return cases


async def test_a_test_set_is_sent_in_batches_and_comes_back_in_order(fake_service: FakeService) -> None:
    cases = cases_of(fake_service, 7)
    async with Client(fake_service.url) as client:
        replayed = await replay(client, cases, Replay(batch_size=3, count=10), stop=asyncio.Event())
    bodies = fake_service.bodies["/v1/recommend/batch"]
    assert sorted(len(body["requests"]) for body in bodies) == [1, 3, 3]
    assert {"history": [{"item_id": "i00"}], "count": 10, "degrade": "never"} in [
        request for body in bodies for request in body["requests"]
    ]
    found = compare(cases, replayed.replies, k=10, tie_tolerance=0)
    assert found["same_list_share"] == 1.0
    assert found["served"] == found["offline"]
    assert found["score_difference"]["max"] == 0.0
    assert all(promises(found, None, n_users=7, min_same_share=1.0).values())
    assert replayed.speed()["users_per_s"] > 0


async def test_a_stopped_replay_returns_the_first_users(fake_service: FakeService) -> None:
    stop = asyncio.Event()
    stop.set()
    async with Client(fake_service.url) as client:
        replayed = await replay(client, cases_of(fake_service, 4), Replay(batch_size=2), stop=stop)
    assert replayed.replies == []


async def test_a_call_that_fails_as_a_whole_says_so(fake_service: FakeService) -> None:
    fake_service.fail_with = 503
    async with Client(fake_service.url) as client:
        with pytest.raises(ServiceError, match="/v1/recommend/batch: status 503"):
            await replay(client, cases_of(fake_service, 4), Replay(batch_size=2), stop=asyncio.Event())


def test_a_batch_beyond_the_services_limit_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected 1\.\.256"):
        Replay(batch_size=257)


def test_a_dataset_cannot_tell_the_test_set_of_another_split(tmp_path: Path) -> None:
    write_predictions(tmp_path / "predictions.parquet", items=[list("abcdefghij")], scores=[[1.0] * 10])
    (tmp_path / "evaluation.json").write_text(evaluation_of(1, recall_10=0.5))
    done = CliRunner().invoke(app, ["replay", "--expected", str(tmp_path), "--dataset", str(tmp_path)])
    assert done.exit_code == 1
    assert "was evaluated on split 'user_disjoint', --dataset works out leave_one_out alone" in done.output
