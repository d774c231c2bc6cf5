"""What diversity gives and costs: a run's lists at several values of it, chosen as the service chooses them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from models import runs
from models.contracts import RetrieverModel
from models.data.splits import EvalCases
from models.errors import RunError
from models.metrics import case_values, metrics_of, paired_bootstrap
from models.progress import bar
from models.ranking import Ranking, queries_of, rank_cases
from service.features.diversity import diversify, n_candidates, topics_of
from service.features.explanation import winning_queries

VALUES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def measure(folder: Path, *, count: int, values: Sequence[float], console: Console) -> dict[str, Any]:
    """Metrics at `count` and the variety of the lists of the test users, for each value of diversity, 0 always first.

    Variety: the entropy in bits of the categories of a list (0 = one category), how many it has, both mean over users
    and without items that have none; and the share of the catalogue that is in anybody's list. `ndcg_change` is against
    diversity 0, with its 95 % interval over users.

    Raises:
        RunError: not a finished run, a value outside 0..1, or no item has a category.
    """
    if bad := [value for value in values if not 0 <= value <= 1]:
        raise RunError(f"diversity is {bad[0]}, expected 0 to 1")
    run = runs.load_run(folder)
    model: RetrieverModel = run.model
    cases = run.split.test
    categories = ["", *run.dataset.item_categories()]
    if not any(categories):
        raise RunError(f"{folder}: no item of {run.dataset.name} has a category, entropy would be of nothing")
    pool = n_candidates(count)
    wanted = sorted({0.0, *values})
    with bar(console) as progress:
        task = progress.add_task("ranking the whole catalogue", total=len(cases))
        ranking = rank_cases(model, cases, top=pool, on_progress=lambda n: progress.advance(task, n))
        topics = topics_of_cases(model, cases, ranking, categories)
        task = progress.add_task("choosing lists", total=len(wanted) * len(cases))
        rows: list[dict[str, Any]] = []
        plain: NDArray[np.float64] | None = None
        for diversity in wanted:
            lists = varied_lists(ranking, topics, count, diversity)
            progress.advance(task, len(cases))
            ranks = _ranks_within(lists, cases)
            ndcg = case_values(f"ndcg@{count}", ranks, cases.rows)
            plain = ndcg if plain is None else plain
            change, low, high = paired_bootstrap(ndcg, plain, seed=5)
            rows.append(
                {
                    "diversity": diversity,
                    **metrics_of(ranks, (count,), rows=cases.rows),
                    **_variety(lists, categories),
                    "ndcg_change": {"mean": change, "low": low, "high": high},
                }
            )
    return {
        "run": run.config["name"],
        "dataset": {"name": run.dataset.name, "sha256": run.dataset.digest},
        "split": run.split.name,
        "model": run.config["model"],
        "count": count,
        "candidates": min(pool, run.dataset.n_items),
        "n_users": len(cases),
        "rows": rows,
    }


def varied_lists(
    ranking: Ranking, topics: Sequence[NDArray[np.int64]], count: int, diversity: float
) -> NDArray[np.int64]:
    """int64 (n, count): item indices in the order of each list, 0 where too few items are left."""
    lists = np.zeros((len(ranking.items), count), dtype=np.int64)
    for row, (scores, own, items) in enumerate(zip(ranking.scores, topics, ranking.items, strict=True)):
        n = int(np.isfinite(scores).sum())  # of a small catalogue the candidates end with what was seen
        chosen = items[diversify(scores[:n], own[:n], count, diversity)]
        lists[row, : len(chosen)] = chosen
    return lists


def as_markdown(report: dict[str, Any]) -> str:
    """One row a value of diversity."""
    first = report["rows"][0]
    metrics = [name for name in first if name.endswith(f"@{report['count']}")]
    head = ["diversity", "category entropy, bits", "categories", *metrics, "NDCG change (95 %)", "catalogue shown"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for row in report["rows"]:
        change = row["ndcg_change"]
        cells = [
            f"{row['diversity']:g}",
            f"{row['category_entropy']:.3f}",
            f"{row['categories']:.2f}",
            *(f"{row[name]:.4f}" for name in metrics),
            f"{change['mean']:+.4f} [{change['low']:+.4f}, {change['high']:+.4f}]",
            f"{row['catalogue_share']:.1%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    told = f"{report['run']}: {report['n_users']:,} test users, lists of {report['count']} from {report['candidates']}"
    return "\n".join([*lines, "", f"{told} candidates."]) + "\n"


def topics_of_cases(
    model: RetrieverModel, cases: EvalCases, ranking: Ranking, categories: Sequence[str]
) -> list[NDArray[np.int64]]:
    """Per case the topic of each of its ranked items; `categories` by item index, '' for none."""
    table, queries = model.item_table().detach().cpu().numpy(), queries_of(model, cases)
    return [
        topics_of([categories[item] for item in items], winning_queries(own, table[items]))
        for own, items in zip(queries, ranking.items, strict=True)
    ]


def _ranks_within(lists: NDArray[np.int64], cases: EvalCases) -> NDArray[np.int64]:
    """int64 by target: its 0-based place in the list (n, count) of its case, beyond the list where it is not there."""
    rows = np.arange(len(cases)) if cases.rows is None else cases.rows
    hits = lists[rows] == cases.targets[:, None]
    return np.where(hits.any(1), hits.argmax(1), lists.shape[1])


def _variety(lists: NDArray[np.int64], categories: Sequence[str]) -> dict[str, float]:
    """Of lists (n, count), 0 where one is shorter."""
    entropies, counts = [], []
    for items in lists:
        named = [categories[item] for item in items.tolist() if categories[item]]
        _, times = np.unique(np.array(named, dtype=object), return_counts=True)
        shares = times / max(1, times.sum())
        entropies.append(float(-(shares * np.log2(shares)).sum()))
        counts.append(len(times))
    shown = np.unique(lists[lists > 0])
    return {
        "category_entropy": float(np.mean(entropies)),
        "categories": float(np.mean(counts)),
        "catalogue_share": len(shown) / (len(categories) - 1),
    }
