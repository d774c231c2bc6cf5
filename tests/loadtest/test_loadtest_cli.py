from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from http_stand_in import FakeService
from typer.testing import CliRunner

from loadtest.catalogue import discover_item_ids
from loadtest.cli import app
from loadtest.client import Client
from loadtest.errors import ServiceError


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = orjson.loads(path.read_bytes())
    return document


def test_open_loop_learns_items_and_event_type_from_the_service(fake_service: FakeService, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    code, printed = run(
        "open-loop", "--host", fake_service.url, "--rate", 100, "--duration-s", 0.3, "--warmup-s", 0.1, "--out", out
    )
    assert code == 0, printed
    result = read(out)
    assert result["kind"] == "open_loop"
    assert result["options"]["workload"]["n_items"] == 40
    assert {event["type"] for body in fake_service.bodies["/v1/events"] for event in body["events"]} == {"click"}
    assert result["summary"]["error_share"] == 0.0
    assert result["service_process"] == {"cpu_ms_per_request": 0.0, "resident_mb": 200.0}
    assert "recommend" in printed


def test_capacity_reports_the_highest_rate_tried(fake_service: FakeService, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    code, printed = run(
        "capacity", "--host", fake_service.url, "--state", "request", "--start", 50, "--factor", 2, "--maximum", 50,
        "--p99-ms", 100_000, "--duration-s", 0.2, "--warmup-s", 0, "--out", out,
    )  # fmt: skip
    assert code == 0, printed
    assert read(out)["capacity_per_s"] == 50
    assert "/v1/events" not in fake_service.bodies


def test_chaos_keeps_its_promises_on_a_service_that_loses_nothing(fake_service: FakeService, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    arguments = ("chaos", "--host", fake_service.url, "--rate", 100, "--duration-s", 0.4, "--warmup-s", 0, "--out", out)
    code, printed = run(*arguments, "--kill-command", "true")
    assert code == 0, printed
    result = read(out)
    assert all(result["verdict"].values())
    assert result["durability"]["events_checked"] > 0
    users = {event["user_id"] for body in fake_service.bodies["/v1/events"] for event in body["events"]}
    assert len(users) == result["durability"]["users_checked"]


def test_chaos_ends_with_1_when_a_promise_is_broken(fake_service: FakeService, tmp_path: Path) -> None:
    fake_service.state_down = True
    arguments = ("chaos", "--host", fake_service.url, "--rate", 100, "--duration-s", 0.3, "--warmup-s", 0)
    code, printed = run(*arguments, "--kill-command", "true", "--out", tmp_path / "r.json")
    assert code == 1
    assert "BROKEN back to model in time" in printed
    result = read(tmp_path / "r.json")
    assert result["durability"]["events_queued"] > 0
    assert result["recovery"]["recommend_degraded"] > 0


def test_a_fault_that_does_not_fit_the_load_is_refused(fake_service: FakeService, tmp_path: Path) -> None:
    arguments = ("chaos", "--host", fake_service.url, "--rate", 10, "--duration-s", 5, "--kill-command", "false")
    code, printed = run(*arguments, "--at-s", 6, "--out", tmp_path / "r.json")
    assert code == 1
    assert "does not end within the 5 s of load" in printed


def write_test_set(folder: Path, service: FakeService) -> tuple[Path, Path]:
    """A dataset of two users and the predictions the stand-in agrees with."""
    ids = service.item_ids
    pq.write_table(
        pa.table({"user_id": ["u"] * 3 + ["v"] * 3, "item_id": [*ids[:3], *ids[3:6]]}), folder / "interactions.parquet"
    )
    histories = [ids[0:2], ids[3:5]]
    items = [[item_id for item_id in ids if item_id not in history][:10] for history in histories]
    predictions = folder / "predictions.parquet"
    pq.write_table(
        pa.table(
            {
                "user_id": ["u", "v"],
                "target": [ids[2], ids[5]],
                "history": histories,
                "items": items,
                "scores": [[1.0 - ids.index(item_id) / 100 for item_id in row] for row in items],
            }
        ),
        predictions,
    )
    return folder, predictions


def test_replay_finds_the_served_answer_to_be_the_evaluated_one(fake_service: FakeService, tmp_path: Path) -> None:
    dataset, predictions = write_test_set(tmp_path, fake_service)
    out = tmp_path / "r.json"
    arguments = ("replay", "--host", fake_service.url, "--dataset", dataset, "--expected", predictions, "--out", out)
    code, printed = run(*arguments)
    assert code == 0, printed
    result = read(out)
    assert all(result["verdict"].values())
    # u's target is first of its list, v's is fourth: rank 4 gains 1 / log2(5).
    assert result["comparison"]["served"]["ndcg@10"] == pytest.approx((1 + 0.43067656) / 2)
    fake_service.item_ids.reverse()
    assert run(*arguments)[0] == 1


def test_replay_of_part_of_the_test_set_is_no_success(fake_service: FakeService, tmp_path: Path) -> None:
    _, predictions = write_test_set(tmp_path, fake_service)
    arguments = ("replay", "--host", fake_service.url, "--expected", predictions, "--out", tmp_path / "r.json")
    assert run(*arguments, "--limit", 1)[0] == 1


def test_a_service_that_does_not_run_is_named(tmp_path: Path) -> None:
    code, printed = run("open-loop", "--host", "http://127.0.0.1:9", "--rate", 1, "--out", tmp_path / "r.json")
    assert code == 1
    assert "http://127.0.0.1:9/v1/recommend: no reply (refused)" in printed
    assert not (tmp_path / "r.json").exists()


def test_report_from_the_command_line(fake_service: FakeService, tmp_path: Path) -> None:
    _, predictions = write_test_set(tmp_path, fake_service)
    run("replay", "--host", fake_service.url, "--expected", predictions, "--out", tmp_path / "r.json")
    code, printed = run("report", tmp_path / "r.json", "--out", tmp_path / "page")
    assert code == 0
    assert printed.split() == [str(tmp_path / "page" / name) for name in ("report.json", "report.html")]
    assert run("report", predictions, "--out", tmp_path / "page")[0] == 1


@pytest.mark.parametrize(
    "command", [("open-loop", "--rate", "100", "--warmup-s", "0"), ("locust", "--users", "2", "--think-s", "0.1")]
)
def test_ctrl_c_writes_what_was_measured_so_far(
    command: tuple[str, ...], fake_service: FakeService, tmp_path: Path
) -> None:
    out = tmp_path / "r.json"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "loadtest",
            *command,
            "--host",
            fake_service.url,
            "--duration-s",
            "60",
            "--out",
            str(out),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a terminal sends its Ctrl-C to the whole group, and so does this test
    )
    deadline_s = time.monotonic() + 30
    # A third event says that a first one was answered and noted, with two users too.
    while len(fake_service.bodies.get("/v1/events", [])) < 3 and time.monotonic() < deadline_s:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    result = read(out)
    assert result["interrupted"] is True
    assert result["summary"]["requests"] > 0


def test_locust_users_walk_sessions_and_leave_a_result(fake_service: FakeService, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    command = [sys.executable, "-m", "loadtest", "locust", "--host", fake_service.url, "--users", "3"]
    done = subprocess.run(
        [*command, "--duration-s", "3", "--think-s", "0.02", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    result = read(out)
    assert result["kind"] == "locust"
    assert result["options"]["users"] == 3
    assert result["by_kind"]["recommend"]["faults"] == {}
    assert set(result["by_kind"]["recommend"]["tiers"]) == {"model"}
    assert result["by_kind"]["events"]["durability"].keys() == {"stored"}
    # Every look is one event, which the recommendation that follows it already knows.
    assert abs(result["by_kind"]["events"]["requests"] - result["by_kind"]["recommend"]["requests"]) <= 3
    assert {
        headers["x-request-timeout-ms"] for headers in fake_service.headers if "x-request-timeout-ms" in headers
    } == {
        "5000",  # the questions for item ids
        "100",
    }


async def test_item_ids_are_discovered_from_recommendations(fake_service: FakeService) -> None:
    fake_service.item_ids = [f"i{n:03d}" for n in range(230)]
    async with Client(fake_service.url) as client:
        found = await discover_item_ids(client)
        assert await discover_item_ids(client, wanted=50) == fake_service.item_ids[:50]
    # 200 for a stranger; then one more with each question, as the item asked about makes room for the next.
    assert found[:200] == fake_service.item_ids[:200]
    assert found[200] == "i200"
    assert len(found) == 201


async def test_a_service_that_recommends_nothing_cannot_be_asked_for_items(fake_service: FakeService) -> None:
    fake_service.item_ids = []
    async with Client(fake_service.url) as client:
        with pytest.raises(ServiceError, match="no item for an empty history"):
            await discover_item_ids(client)
