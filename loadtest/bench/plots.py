"""Figures of the benchmark page, from the parts of its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from loadtest.plots import ALARM, INK, LINES, drawing, plain_log_ticks

Part = Mapping[str, Any]


def ratios(named: Mapping[str, float]) -> Figure:
    """One bar for each ratio, ours to another; the line is a tie."""
    with drawing(height=0.9 + 0.34 * max(len(named), 2)) as (figure, axes):
        rows = range(len(named))
        colours = [LINES[0] if value >= 1 else LINES[1] for value in named.values()]
        axes.barh(list(rows), list(named.values()), color=colours, height=0.62)
        for row, value in zip(rows, named.values(), strict=True):
            axes.annotate(f" {value:.2f}x", (value, row), va="center", color=INK)
        axes.axvline(1.0, color=INK, linestyle="--", linewidth=1)
        axes.set_yticks(list(rows), list(named))
        axes.invert_yaxis()
        axes.set(xlabel="requests per second, ours / theirs", title="Ratios", xlim=(0, 1.15 * max(1, *named.values())))
    return figure


def latency_curves(parts: Mapping[str, Part]) -> Figure:
    """p50 and p99 against the load as a share of the peak, one colour for each part."""
    with drawing() as (figure, axes):
        for (name, part), colour in zip(parts.items(), LINES * len(parts), strict=False):
            steps = [step for step in part["steps"] if step["latency_ms"]]
            loads = [step["load"] * 100 for step in steps]
            for level, style in (("p50", "-"), ("p99", "--")):
                values = [step["latency_ms"][level] for step in steps]
                axes.plot(loads, values, style, color=colour, marker="o", markersize=3, label=f"{name} {level}")
        axes.set(yscale="log", xlabel="offered load, % of peak", ylabel="ms, log scale", title="Latency, open loop")
        plain_log_ticks(axes, "y")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def overload(parts: Mapping[str, Part]) -> Figure:
    """Goodput as a share of the peak against how many times the peak is offered."""
    with drawing() as (figure, axes):
        for (name, part), colour in zip(parts.items(), LINES * len(parts), strict=False):
            for degrade, style in (("allow", "-"), ("never", "--")):
                steps = [step for step in part["steps"] if step["degrade"] == degrade]
                shares = [step["goodput_share"] * 100 for step in steps]
                label = f"{name}, degrade {degrade}"
                axes.plot([step["factor"] for step in steps], shares, style, color=colour, marker="o", label=label)
        axes.axhline(90, color=ALARM, linestyle=":", linewidth=1.2)
        axes.set(xscale="log", xlabel="offered, times the peak", ylabel="goodput, % of peak", title="Overload")
        plain_log_ticks(axes)
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def budget_shares(parts: Mapping[str, Part]) -> Figure:
    """Share of replies within budget + 5 ms, and of those by the model, for each budget."""
    with drawing() as (figure, axes):
        for (name, part), colour in zip(parts.items(), LINES * len(parts), strict=False):
            budgets: Sequence[str] = list(part["budgets"])
            for key, style in (("within_budget_share", "-"), ("first_tier_share", "--")):
                values = [part["budgets"][budget][key] * 100 for budget in budgets]
                label = f"{name}, {'in time' if style == '-' else 'by the model'}"
                axes.plot([float(b) for b in budgets], values, style, color=colour, marker="o", label=label)
        axes.set(xscale="log", xlabel="budget (ms), log scale", ylabel="% of requests", title="Budgets at 70 % load")
        plain_log_ticks(axes)
        axes.set_ylim(0, 102)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def memory(part: Part) -> Figure:
    """Allocated memory of the service over a soak."""
    samples = part["samples"]
    with drawing() as (figure, axes):
        axes.plot(range(len(samples)), [sample["anonymous_mb"] for sample in samples], color=LINES[0])
        axes.set(xlabel="sample", ylabel="allocated (MB)", title="Memory over the soak")
        axes.set_ylim(bottom=0)
    return figure
