"""The result document, its tables and its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loadtest.bench import document
from loadtest.bench.contest import QUIET_CORES, typical
from loadtest.bench.page import render
from loadtest.bench.tables import markdown, ratios
from loadtest.errors import InputError

MACHINE = {"cpu": "a <fast> one", "cores": 2, "commit": "abc", "packages": {"numpy": "2"}}
LATENCY = {"p50": 5.0, "p90": 8.0, "p99": 10.0, "p99.9": 11.0, "max": 12.0}


def figure(per_s: float, foreign: float = 0.0, **more: Any) -> dict[str, Any]:
    return {
        "goodput_per_s": per_s,
        "per_s": per_s,
        "latency_ms": LATENCY,
        "server_cpu_ms_per_request": 0.5,
        "first_tier_share": 1.0,
        "within_budget_share": 0.9995,
        "foreign_cores": foreign,
        **more,
    }


def some_parts() -> dict[str, Any]:
    step = {
        "factor": 2.0, "degrade": "allow", "goodput_share": 0.93, "goodput_since_sent_share": 0.95,
        "lower_tier_ms": LATENCY, "refusal_ms": None, "pss_mb": [100.0, 101.0], "recovery_s": None,
        "send_lag_ms": LATENCY,
    }  # fmt: skip
    shape = {"shape": "sasrec-10000-d64"}
    return {
        "calibrate": {"read_gb_per_s_1_threads": 9.5, "echo": figure(3000), "generator": {"ceiling_per_s": 30_000}},
        "capacity/sasrec-10k-d64": {
            **shape, "request": figure(4500), "redis": figure(3000), "echo": figure(3000),
            "ratio_to_echo": {"request": 1.5, "redis": 1.0},
        },
        "compare/mosec/sasrec-10k-d64": {
            **shape, "peer": "mosec", "versions": {"mosec": "0.9.8"}, "settings": {"mosec": "2 workers"},
            "afterglow": figure(4500), "mosec": figure(4000), "ratio": 1.125,
        },
        "curve/sasrec-10k-d64": {
            **shape, "steps": [{"load": 0.2, **figure(900)}], "at_70_percent": figure(3000),
            "p99_to_p50_at_70_percent": 2.0,
        },
        "budgets/sasrec-10k-d64": {**shape, "unloaded_ms": LATENCY, "budgets": {"50": figure(3000)}},
        "overload/sasrec-10k-d64": {**shape, "steps": [step, {**step, "degrade": "never"}]},
        "rates/sasrec-100k-d64": {
            **shape, "rate_per_s": 1000.0, "limit_ms": 7.0, "request": figure(1000), "redis": figure(1000),
            "p90_ms": {"request": 6.0, "redis": 8.0}, "held": {"request": True, "redis": False},
        },
        "soak/sasrec-10k-d64": {
            **shape, "requests": 1000, "samples": [{"anonymous_mb": 100.0}, {"anonymous_mb": 101.0}],
            **{key: {"early": 100.0, "late": 101.0, "growth": 0.01} for key in ("anonymous_mb", "n_fds", "n_threads")},
        },
        "aborts": {"requests": 200, "aborted": 100, "foreign": 0},
    }  # fmt: skip


def test_parts_are_added_one_by_one_and_replaced_by_name(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    document.add(path, "a", {"x": 1}, machine=MACHINE, command="first")
    document.add(path, "b", {"x": 2}, machine=MACHINE, command="second")
    document.add(path, "a", {"x": 3}, machine=MACHINE, command="third")
    told = document.read(path)
    assert {name: (part["x"], part["command"]) for name, part in told["parts"].items()} == {
        "a": (3, "third"),
        "b": (2, "second"),
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["bench.json"]


def test_merging_keeps_the_part_measured_last(tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    for path, names in ((one, ["a", "b"]), (two, ["b", "c"])):
        for name in names:
            document.add(path, name, {"from": path.stem}, machine=MACHINE, command="")
    text = two.read_text().replace("20", "19", 1) if '"measured_at": "20' in two.read_text() else ""
    assert text, "a year of this century"
    merged = document.merge([two, one], tmp_path / "all.json")
    assert sorted(merged["parts"]) == ["a", "b", "c"]
    assert merged["parts"]["a"]["from"] == "one"
    assert merged["parts"]["c"]["from"] == "two"
    newest = max(document.read(path)["parts"]["b"]["measured_at"] for path in (one, two))
    assert merged["parts"]["b"]["measured_at"] == newest


def test_a_file_that_is_no_benchmark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"kind": "capacity", "schema_version": 1}')
    with pytest.raises(InputError, match="not the result of a benchmark"):
        document.read(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(InputError, match="not a result file"):
        document.read(tmp_path / "x.json")


def test_the_typical_run_is_the_middle_one_of_the_least_disturbed() -> None:
    noisy = 5 * QUIET_CORES
    runs = [figure(100), figure(300), figure(200), figure(10, noisy), figure(9000, noisy)]
    told = typical(runs, 3)
    assert told["goodput_per_s"] == 200
    assert told["median_of_all"] == 200
    assert [run["value"] for run in told["runs"]] == [100, 300, 200, 10, 9000]


def test_ratios_are_named_by_what_they_divide() -> None:
    assert ratios(some_parts()) == {
        "echo, sasrec-10k-d64, request": 1.5,
        "echo, sasrec-10k-d64, redis": 1.0,
        "mosec, sasrec-10k-d64": 1.125,
    }


def test_the_page_shows_every_kind_of_part_and_loads_nothing() -> None:
    stamp = {"measured_at": "t", "commit": "c", "command": "d"}
    html = render({"parts": {name: part | stamp for name, part in some_parts().items()}, "machine": MACHINE})
    for text in ("1.50x", "mosec 0.9.8", "Budgets at 70", "99.950%", "never", "Soak", "a &lt;fast&gt; one"):
        assert text in html
    assert html.index("Against other servers") < html.index("Machine and versions")
    assert "<script" not in html
    assert "http://" not in html.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_an_empty_result_has_a_page_too() -> None:
    assert "0 parts" in render(document.read(Path("/nonexistent.json")))


def test_tables_are_quoted_as_markdown() -> None:
    text = markdown(some_parts())
    assert "### Against other servers, p99 <= 50 ms" in text
    row = "| sasrec-10000-d64 | mosec 0.9.8 | 2 workers | 4,500 | 4,000 | 1.12x | 10.0 / 10.0 | 0.00 / 0.00 |"
    assert row in text
