from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import orjson
import pytest

from loadtest import plots
from loadtest.errors import InputError
from loadtest.predictions import Case, Served, compare
from loadtest.recorder import Recorder, Reply
from loadtest.replay import promises
from loadtest.report import headline, summarize, write_report
from loadtest.results import Result, read_result


def load_findings(*, degraded: bool = False) -> dict[str, Any]:
    recorder = Recorder()
    for n in range(40):
        tier = "popular" if degraded and n > 20 else "model"
        reply = Reply(200, tier, tier == "popular", timing_ms={"state": 0.4, "infer": 1.1, "total": 2.0})
        at_s = n / 10
        recorder.add(
            "recommend", planned_s=at_s, started_s=at_s, sent_s=at_s, done_s=at_s + 0.01 + n / 1e4, reply=reply
        )
    recorder.add("events", planned_s=1, started_s=1, sent_s=None, done_s=2, reply=Reply(0, fault="not_sent"))
    generator = {"start_gap_p99_ms": 0.5, "kept_schedule": True, "cpu_share_of_a_core": 0.2}
    return {**recorder.findings(0, 4, 100), "generator": generator}


def chaos_findings() -> dict[str, Any]:
    return {
        **load_findings(degraded=True),
        "timeline": {"killed_s": 2.0, "returned_s": 3.0, "returned_by": "restart_command"},
        "recovery": {"recommend_errors": 0, "back_to_model_s": 0.4},
        "durability": {"events_missing": 0, "missing": []},
        "verdict": {"back_to_model_in_time": True, "no_stored_event_missing": False},
    }


def capacity_findings() -> dict[str, Any]:
    view = load_findings()["by_kind"]["recommend"]
    step = {"recommend": view, "all": view, "kept_schedule": True, "service_process": None}
    return {
        "capacity_per_s": 100.0,
        "failed_at_per_s": 200.0,
        "ended_because": "p99 80.0 ms > 50 ms",
        "limited_by_generator": False,
        "steps": [{**step, "rate_per_s": 100.0, "reasons": []}, {**step, "rate_per_s": 200.0, "reasons": ["p99 <b>"]}],
    }


def replay_findings() -> dict[str, Any]:
    case = Case("u", "b", ("a",), ("b", "c"), (2.0, 1.0))
    found = compare([case], [Served(200, ("c", "b"), (1.0, 2.0), "model")], k=2, tie_tolerance=1e-4)
    kept = promises(found, None, n_users=1, min_same_share=0.999)
    return {"comparison": found, "coverage": None, "speed": {"users_per_s": 10.0}, "verdict": kept}


ALL = {
    "open_loop": load_findings,
    "locust": load_findings,
    "chaos": chaos_findings,
    "capacity": capacity_findings,
    "replay": replay_findings,
}


def write(folder: Path, kind: str) -> Path:
    options = {"budget_ms": 100, "limits": {"p99_ms": 50.0}, "users": "<script>"}
    path = folder / f"{kind}.json"
    Result(kind, options, {"host": "http://x"}, findings=ALL[kind]()).write(path)
    return path


def test_one_page_holds_every_kind_of_result_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    paths = [write(tmp_path, kind) for kind in ALL]
    json_path, html_path = write_report(paths, tmp_path / "out")
    page = html_path.read_text()
    # 5 figures for each of the three load runs, one for the capacity, one side by side.
    assert page.count("<svg") == 17
    for words in ("Latency", "Stages", "Tiers over time", "Errors and degraded replies", "latency (ms)", "killed"):
        assert words in page
    assert 'src="' not in page
    assert "<link" not in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert [entry["name"] for entry in orjson.loads(json_path.read_bytes())["results"]] == list(ALL)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]


def test_the_ids_of_two_figures_on_a_page_do_not_collide() -> None:
    figures = [plots.stage_percentiles({"total": {"p50": 1.0, "p95": 2.0, "p99": 3.0}}) for _ in range(2)]
    pages = [plots.to_svg(figure, prefix=prefix) for figure, prefix in zip(figures, "ab", strict=True)]
    first, second = ({node.get("id") for node in ElementTree.fromstring(page).iter()} - {None} for page in pages)
    assert first
    assert first.isdisjoint(second)
    for ids, page in zip((first, second), pages, strict=True):
        assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', page)) <= ids


def test_headlines_name_the_figures_asked_for_first() -> None:
    assert headline({"kind": "capacity", **capacity_findings()})["capacity_per_s"] == 100.0
    load = headline({"kind": "open_loop", **load_findings()})
    assert load["requests"] == 41
    assert load["recommend_p50_ms"] == pytest.approx(12.0)
    assert headline({"kind": "chaos", **chaos_findings()})["fault_back_to_model_s"] == 0.4
    assert headline({"kind": "replay", **replay_findings()})["differing_beyond_ties"] == 1


def test_the_summary_says_where_and_how_each_result_was_made(tmp_path: Path) -> None:
    (entry,) = summarize({"run": read_result(write(tmp_path, "open_loop"))})["results"]
    assert entry["command"].startswith("python -m loadtest")
    assert entry["machine"]["cores"] >= 1


def test_two_results_of_one_name_keep_their_paths_apart(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, "replay") for name in ("a", "b")]
    json_path, _ = write_report(paths, tmp_path / "out")
    assert [entry["name"] for entry in orjson.loads(json_path.read_bytes())["results"]] == [str(path) for path in paths]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"schema_version": 2}', b'{"schema_version": 1, "kind": "poem"}'])
def test_a_file_that_is_no_result_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json"):
        write_report([tmp_path / "x.json"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        Result("replay", {}).write(tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
