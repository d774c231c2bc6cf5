"""The report page: result documents to one HTML string, style and figures inline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from html import escape
from typing import Any

from loadtest import plots
from loadtest.html import drawn as _figures
from loadtest.html import page
from loadtest.html import table as _table
from loadtest.html import tiles as _tiles
from loadtest.predictions import METRICS, metric_head

Document = Mapping[str, Any]


def render(results: Mapping[str, Document]) -> str:
    """The whole page as one HTML string: style and figures inline, nothing loaded from elsewhere."""
    parts = [_section(name, result, number) for number, (name, result) in enumerate(results.items())]
    timed = {name: result for name, result in results.items() if "summary" in result}
    if len(timed) > 1:
        parts.insert(0, _comparison(timed))
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return page("afterglow load report", f"{len(results)} results, {made}", parts)


def _comparison(results: Mapping[str, Document]) -> str:
    curves = {
        name: curve for name, result in results.items() if (curve := _recommend(result)["latency_cdf"]) is not None
    }
    rows = [_latency_row(name, _recommend(result)) for name, result in results.items()]
    figures = [plots.latency_cdf(curves)] if curves else []
    return f"<section><h2>Side by side: recommend</h2>{_figures(figures, 'all')}{_table(_LATENCY_HEAD, rows)}</section>"


def _section(name: str, result: Document, number: int) -> str:
    body = _BODIES[result["kind"]](result, f"r{number}")
    stopped = ' <span class="bad">interrupted</span>' if result["interrupted"] else ""
    machine = result["machine"]
    return (
        f"<section><h2>{escape(name)}{stopped}</h2>"
        f'<p class="lead">{escape(result["kind"].replace("_", " "))}, {escape(result["started_at"])}, '
        f"{machine['cores']} cores {escape(machine['cpu'])}<br><code>{escape(result['command'])}</code></p>"
        f"{body}{_options(result)}</section>"
    )


def _load_body(result: Document, prefix: str) -> str:
    summary, recommend = result["summary"], _recommend(result)
    latency = recommend["latency_ms"] or {}
    tiles = {
        "requests": f"{summary['requests']:,}",
        "requests/s": f"{summary['rate_per_s']:.1f}",
        "recommend p50": _ms(latency.get("p50")),
        "recommend p99": _ms(latency.get("p99")),
        "goodput/s": f"{recommend['goodput_per_s']:.1f}",
        "errors": f"{summary['error_share']:.2%}",
        "degraded": f"{recommend['degraded_share']:.2%}",
    }
    if process := result.get("service_process"):
        tiles["service CPU/request"] = _ms(process["cpu_ms_per_request"])
    curves = {kind: view["latency_cdf"] for kind, view in result["by_kind"].items() if view["latency_cdf"]}
    seconds, marks = result["per_second"], _marks(result)
    figures = [
        *([plots.latency_cdf(curves, result["options"].get("budget_ms"))] if curves else []),
        *([plots.stage_percentiles(recommend["stages_ms"])] if recommend["stages_ms"] else []),
        *([plots.tiers_over_time(seconds, marks), plots.errors_over_time(seconds, marks)] if seconds else []),
        *([plots.latency_over_time(seconds, marks)] if any(row["p50_ms"] for row in seconds) else []),
    ]
    rows = [_latency_row(kind, view) for kind, view in result["by_kind"].items()]
    return (
        _tiles(tiles)
        + _verdict(result)
        + _generator(result)
        + _figures(figures, prefix)
        + _table(_LATENCY_HEAD, rows)
        + _chaos_table(result)
    )


def _capacity_body(result: Document, prefix: str) -> str:
    limits = result["options"]["limits"]
    tiles = {
        "capacity (requests/s)": "none" if result["capacity_per_s"] is None else f"{result['capacity_per_s']:.0f}",
        "first failed at": "-" if result["failed_at_per_s"] is None else f"{result['failed_at_per_s']:.0f}/s",
    }
    note = f"<p>The search ended because: {escape(result['ended_because'])}.</p>"
    if result["limited_by_generator"]:
        note += '<p class="bad">The generator ran late in a failed step: read the capacity as a lower bound.</p>'
    head = ("rate/s", "answered/s", "p50 ms", "p95 ms", "p99 ms", "errors", "degraded", "CPU ms/request", "limits")
    rows = []
    for step in result["steps"]:
        view, latency = step["recommend"], step["recommend"]["latency_ms"] or {}
        cpu = (step["service_process"] or {}).get("cpu_ms_per_request")
        rows.append(
            (
                f"{step['rate_per_s']:.0f}",
                f"{step['all']['ok_per_s']:.1f}",
                *(_number(latency.get(level)) for level in ("p50", "p95", "p99")),
                f"{view['error_share']:.2%}",
                f"{view['degraded_share']:.2%}",
                _number(cpu),
                "; ".join(step["reasons"]) or "kept",
            )
        )
    figures = [plots.capacity_curve(result["steps"], result["capacity_per_s"], limits["p99_ms"])]
    return _tiles(tiles) + note + (_figures(figures, prefix) if rows else "") + _table(head, rows)


def _replay_body(result: Document, prefix: str) -> str:
    found = result["comparison"]
    k = found["k"]
    names = [name for name in METRICS if f"{name}@{k}" in found["served"]]
    rows = [
        (where, *(_number(found[where][f"{metric}@{k}"], 6) for metric in names)) for where in ("served", "offline")
    ]
    tiles = {
        "users": f"{found['users']:,}",
        "answered": f"{found['answered']:,}",
        f"same top-{k} list": f"{found['same_list_share']:.3%}",
        "different beyond ties": f"{found['differing_beyond_ties']:,}",
        "users/s": _number(result["speed"]["users_per_s"], 1),
    }
    gap = found["score_gap"]
    note = (
        f"<p>Largest score gap where lists differ: {gap['max']:.3g} "
        f"(counted as a tie up to {found['tie_tolerance']:g}).</p>"
        if gap
        else ""
    )
    return _tiles(tiles) + _verdict(result) + _table(("", *(metric_head(name, k) for name in names)), rows) + note


_BODIES: dict[str, Callable[[Document, str], str]] = {
    "open_loop": _load_body,
    "locust": _load_body,
    "chaos": _load_body,
    "capacity": _capacity_body,
    "replay": _replay_body,
}
_LATENCY_HEAD = ("", "requests", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "p99.9 ms", "max ms", "errors")


def _latency_row(name: str, view: Document) -> tuple[str, ...]:
    latency = view["latency_ms"] or {}
    levels = ("p50", "p90", "p95", "p99", "p99.9", "max")
    return (
        name,
        f"{view['requests']:,}",
        *(_number(latency.get(level)) for level in levels),
        f"{view['error_share']:.2%}",
    )


def _recommend(result: Document) -> Document:
    view: Document = result["by_kind"].get("recommend", result["summary"])
    return view


def _marks(result: Document) -> dict[str, float]:
    timeline = result.get("timeline") or {}
    # Where nothing told of the return, the kill stands in for it, and one mark is enough.
    returned_s = None if timeline.get("returned_by") == "kill" else timeline.get("returned_s")
    named = {"killed": timeline.get("killed_s"), "back": returned_s}
    return {name: at_s for name, at_s in named.items() if at_s is not None}


def _chaos_table(result: Document) -> str:
    if result["kind"] != "chaos":
        return ""
    facts = {**result["timeline"], **result["recovery"], **result["durability"]}
    rows = [(key.replace("_", " "), str(value)) for key, value in facts.items() if key != "missing"]
    return _table(("fault", ""), rows)


def _verdict(result: Document) -> str:
    marks = [
        f'<li class="{"good" if kept else "bad"}">{"kept" if kept else "broken"}: {escape(name.replace("_", " "))}</li>'
        for name, kept in result.get("verdict", {}).items()
    ]
    return f"<ul>{''.join(marks)}</ul>" if marks else ""


def _generator(result: Document) -> str:
    facts = result.get("generator")
    if not facts:
        return "<p>Closed loop: users wait for each reply, so overload shows as fewer requests, not as latency.</p>"
    kept = facts["kept_schedule"]
    words = "kept its schedule" if kept else "ran late: its own delay is part of the latencies"
    use = f"start gap p99 {_ms(facts['start_gap_p99_ms'])}, {facts['cpu_share_of_a_core']:.0%} of a core"
    return (
        "<p>Open loop, latency from the planned moment of sending. The generator "
        f'<span class="{"good" if kept else "bad"}">{words}</span> ({use}).</p>'
    )


def _options(result: Document) -> str:
    rows = [(name, str(value)) for name, value in _flat(result["options"])]
    return f"<details><summary>options</summary>{_table(('option', 'value'), rows)}</details>"


def _flat(options: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in options.items():
        pairs += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]
    return pairs


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} ms"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
