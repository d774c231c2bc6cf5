from __future__ import annotations

import numpy as np
import orjson
import pytest

from loadtest.recorder import Recorder, Reply, percentiles, read_reply


def add(recorder: Recorder, planned_s: float, latency_ms: float, reply: Reply, kind: str = "recommend") -> None:
    recorder.add(
        kind,
        planned_s=planned_s,
        started_s=planned_s + 0.001,
        sent_s=planned_s + 0.002,
        done_s=planned_s + latency_ms / 1e3,
        reply=reply,
    )


GOOD = Reply(200, "model", timing_ms={"total": 2.0})


def test_a_summary_counts_by_hand() -> None:
    recorder = Recorder()
    add(recorder, 0.1, 10, GOOD)
    add(recorder, 0.2, 200, GOOD)  # too late for goodput
    add(recorder, 1.1, 10, Reply(200, "popular", degraded=True))
    add(recorder, 1.2, 10, Reply(200, "popular"))  # a cold user: neither degraded nor goodput
    add(recorder, 1.3, 1, Reply(503, fault="http_503"))
    add(recorder, 1.4, 5000, Reply(0, fault="timeout"))
    add(recorder, 1.5, 3, Reply(202, durability="stored"), kind="events")
    summary = recorder.view("recommend").summary(duration_s=2.0, budget_ms=100)
    assert (summary["requests"], summary["ok"]) == (6, 4)
    assert summary["rate_per_s"] == 3.0
    assert summary["goodput_per_s"] == 0.5
    assert summary["error_share"] == pytest.approx(2 / 6, abs=1e-6)
    assert summary["degraded_share"] == pytest.approx(1 / 6, abs=1e-6)
    assert summary["within_budget_share"] == 0.5
    assert summary["statuses"] == {"200": 4, "0": 1, "503": 1}
    assert summary["faults"] == {"http_503": 1, "timeout": 1}
    assert summary["tiers"] == {"model": 2, "popular": 2}
    # A fast refusal and a timeout are no latencies of answers.
    assert summary["latency_ms"]["p50"] == pytest.approx(10)
    assert summary["latency_ms"]["max"] == pytest.approx(200)
    assert summary["service_latency_ms"]["max"] == pytest.approx(198)
    assert summary["start_gap_ms"]["max"] == pytest.approx(1)
    assert summary["stages_ms"]["total"]["p50"] == 2.0
    assert recorder.view("events").summary(duration_s=2.0, budget_ms=100)["durability"] == {"stored": 1}


def test_requests_of_the_warm_up_are_left_out() -> None:
    recorder = Recorder()
    add(recorder, 0.5, 900, GOOD)
    add(recorder, 1.5, 10, GOOD)
    findings = recorder.findings(1.0, 2.0, 100)
    assert findings["summary"]["requests"] == 1
    assert findings["summary"]["latency_ms"]["max"] == pytest.approx(10)
    assert len(findings["summary"]["stages_ms"]["total"]) == len(percentiles(np.ones(1)) or {})
    assert [row["requests"] for row in findings["per_second"]] == [1, 1]


def test_seconds_are_those_of_the_plan() -> None:
    recorder = Recorder()
    add(recorder, 0.9, 1500, GOOD)
    add(recorder, 2.0, 10, Reply(200, "popular", degraded=True))
    rows = recorder.view().per_second(3)
    assert [row["requests"] for row in rows] == [1, 0, 1]
    assert [row["tiers"] for row in rows] == [{"model": 1}, {}, {"popular": 1}]
    assert [row["degraded"] for row in rows] == [0, 0, 1]
    assert rows[1]["p50_ms"] is None


def test_an_empty_recorder_has_a_summary() -> None:
    summary = Recorder().view("recommend").summary(duration_s=0.0, budget_ms=100)
    assert summary["requests"] == 0
    assert summary["latency_ms"] is None


def test_percentiles_are_observed_values() -> None:
    found = percentiles(np.arange(1.0, 101.0))
    assert found is not None
    assert (found["p50"], found["p99"], found["p99.9"], found["mean"]) == (51.0, 100.0, 100.0, 50.5)


@pytest.mark.parametrize(
    ("kind", "status", "body", "expected"),
    [
        ("recommend", 500, b"oops", Reply(500, fault="http_500")),
        ("recommend", 200, b"{}", Reply(200, fault="bad_body")),
        ("recommend", 200, b"[", Reply(200, fault="bad_body")),
        (
            "recommend",
            200,
            orjson.dumps({"served": {"tier": "cache", "degraded": True}, "timing_ms": {"total": 1.0}}),
            Reply(200, "cache", True, timing_ms={"total": 1.0}),
        ),
        ("events", 202, b'{"durability": "queued", "rejected": []}', Reply(202, durability="queued")),
        ("events", 202, b'{"durability": null, "rejected": []}', Reply(202, durability="nothing_new")),
        (
            "events",
            202,
            b'{"durability": "stored", "rejected": [{"index": 0}]}',
            Reply(202, durability="stored", fault="rejected"),
        ),
        ("events", 202, b'{"durability": "stored"}', Reply(202, fault="bad_body")),
    ],
)
def test_replies_are_read(kind: str, status: int, body: bytes, expected: Reply) -> None:
    assert read_reply(kind, status, body) == expected
