"""What a command prints, and how it ends: 0 all well, 1 a promise broken or an error, 130 interrupted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import typer
import uvloop
from rich.console import Console
from rich.table import Table

from loadtest.errors import LoadtestError
from loadtest.predictions import METRICS, metric_head
from loadtest.results import Result

T = TypeVar("T")
Findings = dict[str, Any]
INTERRUPTED = 130


def run(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns, on a uvloop; an error of ours ends the command with its message and code 1."""
    try:
        return uvloop.run(work)
    except LoadtestError as error:
        raise refused(str(error)) from None
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def refused(message: str) -> typer.Exit:
    """Prints why a command cannot go on; raise what it returns."""
    print(f"error: {message}", file=sys.stderr)
    return typer.Exit(1)


def finish(result: Result, out: Path, show: Callable[[Findings], None]) -> None:
    """Writes and shows the result, then ends the command with the exit code that fits it."""
    result.write(out)
    show(result.findings)
    for promise, kept in result.findings.get("verdict", {}).items():
        print(f"{'kept  ' if kept else 'BROKEN'} {promise.replace('_', ' ')}")
    print(f"result: {out}")
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)
    if not all(result.findings.get("verdict", {}).values()):
        raise typer.Exit(1)


def show_load(findings: Findings) -> None:
    rows = []
    for kind, view in findings["by_kind"].items():
        latency = view["latency_ms"] or {}
        rows.append(
            (
                kind,
                str(view["requests"]),
                f"{view['rate_per_s']:.1f}",
                *(_number(latency.get(level)) for level in ("p50", "p95", "p99", "max")),
                f"{view['error_share']:.2%}",
                f"{view['degraded_share']:.2%}",
                f"{view['goodput_per_s']:.1f}" if kind == "recommend" else "",
            )
        )
    _table(("", "requests", "per s", "p50 ms", "p95 ms", "p99 ms", "max ms", "errors", "degraded", "goodput/s"), rows)
    generator = findings.get("generator")
    if generator is not None and not generator["kept_schedule"]:
        print(f"the generator ran late (start gap p99 {generator['start_gap_p99_ms']} ms): latencies include its delay")


def show_capacity(findings: Findings) -> None:
    rows = []
    for step in findings["steps"]:
        latency = step["recommend"]["latency_ms"] or {}
        rows.append(
            (
                f"{step['rate_per_s']:.0f}",
                *(_number(latency.get(level)) for level in ("p50", "p95", "p99")),
                f"{step['recommend']['error_share']:.2%}",
                f"{step['recommend']['degraded_share']:.2%}",
                "; ".join(step["reasons"]) or "kept",
            )
        )
    _table(("rate/s", "p50 ms", "p95 ms", "p99 ms", "errors", "degraded", "limits"), rows)
    carried = findings["capacity_per_s"]
    print(f"capacity: {'below the first rate' if carried is None else f'{carried:.0f} requests/s'}", end="")
    print(" (a lower bound: the generator ran late)" if findings["limited_by_generator"] else "")


def show_replay(findings: Findings) -> None:
    found = findings["comparison"]
    k = found["k"]
    names = [name for name in METRICS if f"{name}@{k}" in found["served"]]
    rows = [
        (where, *(_number(found[where][f"{metric}@{k}"], 6) for metric in names)) for where in ("served", "offline")
    ]
    _table(("", *(metric_head(name, k) for name in names)), rows)
    print(
        f"{found['answered']} of {found['users']} users answered, {found['same_list_share']:.4%} with the same list, "
        f"{found['differing_users']} differ, {found['differing_beyond_ties']} of them beyond ties"
    )
    if found["score_gap"]:
        print(f"largest score gap where lists differ: {found['score_gap']['max']:.3g}")


def show_chaos(findings: Findings) -> None:
    show_load(findings)
    for part in ("timeline", "recovery", "durability"):
        _table((part, ""), [(name, str(value)) for name, value in findings[part].items() if name != "missing"])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False)
    for column, name in enumerate(head):
        table.add_column(name, justify="right" if column else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # A file or a pipe has no width; a table cut short in a log is worth nothing.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
