"""One page from result files: `report.html`, self-contained, and `report.json` with the same figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadtest.page import Document, render
from loadtest.results import read_result, write_bytes, write_json


def write_report(sources: Sequence[Path], out: Path) -> tuple[Path, Path]:
    """Paths of the JSON and the HTML made from result files in `out`; InputError names a file that is no result."""
    results = {_name(path, sources): read_result(path) for path in sources}
    json_path, html_path = out / "report.json", out / "report.html"
    write_json(json_path, summarize(results))
    write_bytes(html_path, render(results).encode())
    return json_path, html_path


def summarize(results: Mapping[str, Document]) -> dict[str, Any]:
    """The report as JSON: per result what it was, where it ran and its headline figures."""
    return {
        "schema_version": 1,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "results": [
            {
                "name": name,
                **{
                    key: result.get(key)
                    for key in ("kind", "command", "started_at", "interrupted", "machine", "service")
                },
                "headline": headline(result),
            }
            for name, result in results.items()
        ],
    }


def headline(result: Document) -> dict[str, Any]:
    """The few figures of a result that a reader asks for first, unrounded, named with their unit."""
    if result["kind"] == "capacity":
        return {key: result[key] for key in ("capacity_per_s", "failed_at_per_s", "limited_by_generator")}
    if result["kind"] == "replay":
        figures = result["comparison"]
        names = ("users", "answered", "served", "offline", "same_list_share", "differing_beyond_ties")
        return {**{name: figures[name] for name in names}, "verdict": result["verdict"]}
    summary = result["by_kind"].get("recommend", result["summary"])
    latency = summary["latency_ms"] or {}
    figures = {
        "requests": result["summary"]["requests"],
        "rate_per_s": result["summary"]["rate_per_s"],
        "error_share": result["summary"]["error_share"],
        "recommend_p50_ms": latency.get("p50"),
        "recommend_p99_ms": latency.get("p99"),
        "recommend_goodput_per_s": summary["goodput_per_s"],
        "recommend_degraded_share": summary["degraded_share"],
    }
    if process := result.get("service_process"):
        figures["service_cpu_ms_per_request"] = process["cpu_ms_per_request"]
    if result["kind"] == "chaos":
        back = {f"fault_{name}": result["recovery"][name] for name in ("recommend_errors", "back_to_model_s")}
        return {**figures, **back, "verdict": result["verdict"]}
    return figures


def _name(path: Path, sources: Sequence[Path]) -> str:
    """The file's stem, or its whole path where two files share a stem."""
    alone = sum(other.stem == path.stem for other in sources) == 1
    return path.stem if alone else str(path)
