"""The evaluation report as one HTML page: tables and plots inline, nothing fetched."""

from __future__ import annotations

import html
import io
import itertools
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .25rem .7rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr + tr { border-top: 1px solid #8884; }
figure { margin: 1.5rem 0; background: #fff; } pre { overflow: auto; background: #8881; padding: .7rem; }
"""


@dataclass(frozen=True)
class Plot:
    """Bars: the mean of `scores` (n,) within bins of `values` (n,) that start at `edges`."""

    caption: str
    xlabel: str
    ylabel: str
    values: NDArray[np.int64]
    scores: NDArray[np.float64]
    edges: list[int]


def render_page(report: dict[str, Any], curve: list[dict[str, Any]], plots: list[Plot]) -> str:
    """HTML of one run's evaluation.

    Args:
        curve: the lines of metrics.jsonl.
        plots: what the run's exam shows beside its tables.
    """
    title = html.escape(f"{report['run']} on {report['dataset']['name']}")
    policy = "; ".join(f"{key} = {value}" for key, value in report["policy"].items())
    sections = [
        f"<h1>{title}</h1><p>Held-out cases: {html.escape(policy)}.</p>",
        _table("Held-out metrics", report["test"]),
    ]
    if "sampled" in report:
        heading = f"Among {report['sampled']['n_negatives']} fixed random negatives"
        sections.append(_table(heading, report["sampled"]["test"]))
    sections += [
        _figure(
            f"Training: loss and validation {report['criterion']} by epoch", _plot_curve(curve, report["criterion"])
        ),
        *(_figure(plot.caption, _plot_bins(plot)) for plot in plots),
        f"<h2>Configuration</h2><pre>{html.escape(_lines(report['model']))}</pre>",
        f"<p>Made by <code>{html.escape(report['command'])}</code>.</p>",
    ]
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>" + "".join(
        sections
    )


def _table(heading: str, groups: dict[str, dict[str, float]]) -> str:
    columns = list(next(iter(groups.values())))
    head = "".join(f"<th>{column}</th>" for column in ("group", *columns))
    rows = []
    for name, row in groups.items():
        cells = "".join(f"<td>{row[c]:.4f}</td>" if c != "n" else f"<td>{row[c]:,}</td>" for c in columns)
        rows.append(f"<tr><td>{html.escape(name)}</td>{cells}</tr>")
    return f"<h2>{html.escape(heading)}</h2><table><tr>{head}</tr>{''.join(rows)}</table>"


def _plot_curve(curve: list[dict[str, Any]], criterion: str) -> Figure:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    loss, metric = figure.subplots(1, 2)
    epochs = [line["epoch"] for line in curve]
    loss.plot(epochs, [line["loss"] for line in curve], color="#b3541e")
    loss.set(xlabel="epoch", ylabel="training loss")
    metric.plot(epochs, [line["validation"][criterion] for line in curve], color="#1e6fb3")
    metric.set(xlabel="epoch", ylabel=f"validation {criterion}")
    return figure


def _plot_bins(plot: Plot) -> Figure:
    edges = plot.edges
    bins = np.digitize(plot.values, edges[1:])
    names = [f"{low}–{high - 1}" for low, high in itertools.pairwise(edges)] + [f"{edges[-1]}+"]
    heights = [float(plot.scores[bins == at].mean()) if (bins == at).any() else 0.0 for at in range(len(names))]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar(names, heights, color="#1e6fb3")
    axes.bar_label(bars, [f"n={int((bins == at).sum()):,}" for at in range(len(names))], fontsize=8)
    axes.set(xlabel=plot.xlabel, ylabel=plot.ylabel)
    return figure


def _figure(caption: str, figure: Figure) -> str:
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "afterglow"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return f"<h2>{html.escape(caption)}</h2><figure>{svg[svg.index('<svg') :]}</figure>"


def _lines(section: dict[str, Any]) -> str:
    return "\n".join(f"{key} = {value}" for key, value in section.items())
