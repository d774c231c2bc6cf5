"""The evaluation report as one HTML page: tables and plots inline, nothing fetched."""

from __future__ import annotations

import html
import io
import itertools
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from models.metrics import metrics_of

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .25rem .7rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr + tr { border-top: 1px solid #8884; }
figure { margin: 1.5rem 0; background: #fff; } pre { overflow: auto; background: #8881; padding: .7rem; }
"""
_COLUMNS = ("n", "hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr@10")


def render_page(
    report: dict[str, Any],
    curve: list[dict[str, Any]],
    ranks: NDArray[np.int64],
    train_lengths: NDArray[np.int64],
    target_popularity: NDArray[np.int64],
) -> str:
    """HTML of one run's evaluation.

    Args:
        curve: the lines of metrics.jsonl.
        ranks: (n,) 0-based rank of each test target.
        train_lengths: (n,) training length of each case's user.
        target_popularity: (n,) training interactions of each case's target.
    """
    title = html.escape(f"{report['run']} on {report['dataset']['name']}")
    policy = "; ".join(f"{key} = {value}" for key, value in report["policy"].items())
    sections = [
        f"<h1>{title}</h1><p>Test targets ranked against the whole catalogue. {html.escape(policy)}.</p>",
        _table("Held-out metrics", report["test"]),
    ]
    if "sampled" in report:
        heading = f"Among {report['sampled']['n_negatives']} fixed random negatives"
        sections.append(_table(heading, report["sampled"]["test"]))
    sections += [
        _figure("Training: loss and validation ndcg@10 by epoch", _plot_curve(curve)),
        _figure(
            "ndcg@10 by length of the user's training history",
            _plot_bins(ranks, train_lengths, [0, 4, 6, 9, 15, 30, 100], "training interactions of the user"),
        ),
        _figure(
            "ndcg@10 by popularity of the target",
            _plot_bins(ranks, target_popularity, [0, 1, 5, 10, 20, 50, 100], "training interactions of the target"),
        ),
        f"<h2>Configuration</h2><pre>{html.escape(_lines(report['model']))}</pre>",
        f"<p>Made by <code>{html.escape(report['command'])}</code>.</p>",
    ]
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>" + "".join(
        sections
    )


def _table(heading: str, groups: dict[str, dict[str, float]]) -> str:
    head = "".join(f"<th>{column}</th>" for column in ("group", *_COLUMNS))
    rows = []
    for name, row in groups.items():
        cells = "".join(f"<td>{row[c]:.4f}</td>" if c != "n" else f"<td>{row[c]:,}</td>" for c in _COLUMNS)
        rows.append(f"<tr><td>{html.escape(name)}</td>{cells}</tr>")
    return f"<h2>{html.escape(heading)}</h2><table><tr>{head}</tr>{''.join(rows)}</table>"


def _plot_curve(curve: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    loss, metric = figure.subplots(1, 2)
    epochs = [line["epoch"] for line in curve]
    loss.plot(epochs, [line["loss"] for line in curve], color="#b3541e")
    loss.set(xlabel="epoch", ylabel="training loss")
    metric.plot(epochs, [line["validation"]["ndcg@10"] for line in curve], color="#1e6fb3")
    metric.set(xlabel="epoch", ylabel="validation ndcg@10")
    return figure


def _plot_bins(ranks: NDArray[np.int64], values: NDArray[np.int64], edges: list[int], xlabel: str) -> Figure:
    bins = np.digitize(values, edges[1:])
    names = [f"{low}–{high - 1}" for low, high in itertools.pairwise(edges)] + [f"{edges[-1]}+"]
    heights = [metrics_of(ranks[bins == at])["ndcg@10"] if (bins == at).any() else 0.0 for at in range(len(names))]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar(names, heights, color="#1e6fb3")
    axes.bar_label(bars, [f"n={int((bins == at).sum()):,}" for at in range(len(names))], fontsize=8)
    axes.set(xlabel=xlabel, ylabel="ndcg@10")
    return figure


def _figure(caption: str, figure: Figure) -> str:
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "afterglow"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return f"<h2>{html.escape(caption)}</h2><figure>{svg[svg.index('<svg') :]}</figure>"


def _lines(section: dict[str, Any]) -> str:
    return "\n".join(f"{key} = {value}" for key, value in section.items())
