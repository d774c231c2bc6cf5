"""The report's figures, from result documents. Each function returns one matplotlib figure."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, PercentFormatter

INK, GRID, ALARM = "#24292f", "#e4e8ec", "#c0392b"
LINES = ("#1f5fa8", "#d98200", "#1a8f6a", "#8a4fa3", "#c0392b", "#5c6670")
# From the best answer to the poorest; errors on top of the stack, where they are seen.
TIERS = {
    "model": "#1f5fa8",
    "retrieved": "#4f93d1",
    "cache": "#9cc7ec",
    "popular": "#f0b14a",
    "static": "#b8763e",
    "error": ALARM,
}
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "afterglow",  # the same figure gives the same bytes
    "axes.edgecolor": "#9aa3ab",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}
_CDF_TICKS = (50.0, 90.0, 99.0, 99.9)


def latency_cdf(curves: Mapping[str, Mapping[str, Sequence[float]]], limit_ms: float | None = None) -> Figure:
    """Share of requests answered within a latency; the axis stretches towards 100 %, where the promises are."""
    with drawing() as (figure, axes):
        for (name, curve), colour in zip(curves.items(), _colours(), strict=False):
            levels = np.minimum(np.asarray(curve["percentile"]), 99.99)
            axes.plot(curve["ms"], _nines(levels), label=name, color=colour, drawstyle="steps-post")
        _limit_line(axes, limit_ms)
        axes.set(xscale="log", xlabel="latency (ms), log scale", ylabel="requests answered within", title="Latency")
        plain_log_ticks(axes)
        axes.yaxis.set_major_locator(FixedLocator(_nines(np.array([0.0, *_CDF_TICKS])).tolist()))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 - 10 ** (2 - y):g}%"))
        axes.set_ylim(0, 4)
        axes.legend(loc="upper left")
    return figure


def stage_percentiles(stages_ms: Mapping[str, Mapping[str, float] | None]) -> Figure:
    """p50, p95 and p99 of every stage the service timed, the slowest on top."""
    known = {stage: figures for stage, figures in stages_ms.items() if figures}
    order = sorted(known, key=lambda stage: known[stage]["p50"])
    with drawing(height=1.1 + 0.42 * max(len(order), 2)) as (figure, axes):
        for row, stage in enumerate(order):
            axes.plot([known[stage]["p50"], known[stage]["p99"]], [row, row], color="#b9c4ce", linewidth=3, zorder=2)
        for (level, marker), colour in zip((("p50", "o"), ("p95", "D"), ("p99", "s")), LINES, strict=False):
            values = [known[stage][level] for stage in order]
            axes.scatter(values, range(len(order)), marker=marker, s=36, color=colour, label=level, zorder=3)
        axes.set_yticks(range(len(order)), order)
        axes.set(xlabel="time in the service (ms), log scale", title="Stages", ylim=(-0.6, len(order) - 0.4))
        if all(known[stage]["p50"] > 0 for stage in order):
            axes.set_xscale("log")
            plain_log_ticks(axes)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def tiers_over_time(per_second: Sequence[Mapping[str, Any]], marks: Mapping[str, float] | None = None) -> Figure:
    """Replies a second by the tier that made them, requests without a good reply on top."""
    seconds = [row["second"] for row in per_second]
    named = {tier for row in per_second for tier in row["tiers"]}
    order = [tier for tier in TIERS if tier in named] + sorted(named - set(TIERS))
    stacks = [[row["tiers"].get(tier, 0) for row in per_second] for tier in order]
    colours = [TIERS.get(tier, "#7f8c8d") for tier in order]
    if any(row["errors"] for row in per_second):
        order, colours = [*order, "error"], [*colours, TIERS["error"]]
        stacks.append([row["errors"] for row in per_second])
    with drawing() as (figure, axes):
        bottom = np.zeros(len(seconds))
        for stack, tier, colour in zip(stacks, order, colours, strict=True):
            axes.bar(seconds, stack, width=1.0, align="edge", bottom=bottom, label=tier, color=colour, linewidth=0)
            bottom += np.asarray(stack)
        axes.set(xlabel="time (s)", ylabel="replies per second", title="Tiers over time")
        axes.set_ylim(0, max(bottom.max(initial=0.0), 1.0) * (1.2 if marks else 1.05))  # room for the marks' names
        _time_axis(axes, seconds, marks)
        if order:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def errors_over_time(per_second: Sequence[Mapping[str, Any]], marks: Mapping[str, float] | None = None) -> Figure:
    """Share of requests that failed, and of recommend replies from a lower tier than was due, second by second."""
    seconds = [row["second"] for row in per_second]
    errors = [_share(row["errors"], row["requests"]) for row in per_second]
    degraded = [_share(row["degraded"], sum(row["tiers"].values())) for row in per_second]
    with drawing() as (figure, axes):
        for shares, name, colour in ((errors, "errors", ALARM), (degraded, "degraded", TIERS["popular"])):
            axes.stairs(shares, [*seconds, len(seconds)], label=name, color=colour, linewidth=1.8)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set(xlabel="time (s)", ylabel="share", title="Errors and degraded replies", ylim=(-0.02, 1.02))
        _time_axis(axes, seconds, marks)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def latency_over_time(per_second: Sequence[Mapping[str, Any]], marks: Mapping[str, float] | None = None) -> Figure:
    """p50 and p99 of the requests planned in each second."""
    seconds = [row["second"] + 0.5 for row in per_second]
    with drawing() as (figure, axes):
        for name, colour in (("p50", LINES[0]), ("p99", LINES[1])):
            values = [np.nan if row[f"{name}_ms"] is None else row[f"{name}_ms"] for row in per_second]
            axes.plot(seconds, values, label=name, color=colour, marker="o" if len(seconds) < 40 else "", markersize=3)
        axes.set(yscale="log", xlabel="time (s)", ylabel="latency (ms), log scale", title="Latency over time")
        plain_log_ticks(axes, "y")
        _time_axis(axes, [int(second) for second in seconds], marks)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def capacity_curve(steps: Sequence[Mapping[str, Any]], capacity_per_s: float | None, limit_ms: float) -> Figure:
    """Latency percentiles against the arrival rate; rates that broke a limit are hollow."""
    answered = [step for step in steps if step["recommend"]["latency_ms"]]
    judged = {step["rate_per_s"]: step for step in answered}  # a rate that was tried twice counts by its second try
    with drawing() as (figure, axes):
        for level, colour in zip(("p50", "p95", "p99"), LINES, strict=False):
            line = [step["recommend"]["latency_ms"][level] for step in judged.values()]
            axes.plot(list(judged), line, color=colour, label=level, zorder=2)
            for step in answered:
                point = (step["rate_per_s"], step["recommend"]["latency_ms"][level])
                face = "white" if step["reasons"] else colour
                axes.plot(*point, marker="o", markersize=5, color=colour, markerfacecolor=face, zorder=3)
        axes.axhline(limit_ms, color=ALARM, linestyle="--", linewidth=1.2)
        axes.annotate(
            f"limit for p99: {limit_ms:g} ms",
            (0.01, limit_ms),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            color=ALARM,
        )
        if capacity_per_s:
            axes.axvline(capacity_per_s, color=INK, linestyle=":", linewidth=1.2)
            axes.annotate(
                f" capacity {capacity_per_s:.0f}/s",
                (capacity_per_s, 0.02),
                xycoords=("data", "axes fraction"),
                ha="left",
            )
        axes.set(
            yscale="log",
            xlabel="arrival rate (requests/s)",
            ylabel="latency (ms), log scale",
            title="Latency against load",
        )
        plain_log_ticks(axes, "y")
        axes.set_xlim(left=0)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def to_svg(figure: Figure, *, prefix: str) -> str:
    """The figure as an SVG element; `prefix` keeps its ids apart from those of other figures on a page."""
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for before in ('id="', 'href="#', "url(#"):
        svg = svg.replace(before, f"{before}{prefix}-")
    return svg


@contextmanager
def drawing(width: float = 7.2, height: float = 3.1) -> Iterator[tuple[Figure, Axes]]:
    """An empty figure in the pages' style."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.add_subplot()


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _colours() -> Iterator[str]:
    while True:
        yield from LINES


def _nines(percentile: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """0 % -> 0, 90 % -> 1, 99 % -> 2 ...: every further nine takes as much room as the one before."""
    return 2.0 - np.log10(100.0 - percentile)


def plain_log_ticks(axes: Axes, which: str = "x") -> None:
    """Ticks at 1, 2, 5, 10 ... written as plain numbers."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _time_axis(axes: Axes, seconds: Sequence[int], marks: Mapping[str, float] | None) -> None:
    axes.set_xlim(0, max(len(seconds), 1))
    for height, (name, at_s) in enumerate((marks or {}).items()):
        axes.axvline(at_s, color=INK, linestyle="--", linewidth=1)
        axes.annotate(f" {name}", (at_s, 0.97 - 0.08 * height), xycoords=("data", "axes fraction"), va="top", color=INK)


def _limit_line(axes: Axes, limit_ms: float | None) -> None:
    if limit_ms is not None:
        axes.axvline(limit_ms, color=ALARM, linestyle="--", linewidth=1.2)
        axes.annotate(
            f"{limit_ms:g} ms ", (limit_ms, 0.02), xycoords=("data", "axes fraction"), color=ALARM, ha="right"
        )
