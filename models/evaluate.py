"""Evaluation of a finished run: full-catalogue ranking by group, and the files that carry it on.

evaluation.json       every figure, the policy it holds under, and the command that made it
evaluation.html       the same for people, self-contained
predictions.parquet   per test user: history, target, top-20 items and scores; the service's answers are held to it
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console

from models import runs
from models.data.splits import EvalCases
from models.errors import RunError
from models.evaluation_page import render_page
from models.metrics import by_group, metrics_of, tail_items, tail_user_threshold
from models.progress import bar
from models.ranking import Ranking, draw_negatives, rank_against, rank_cases

# What a request of the service may carry; longer histories are cut to their newest events.
HISTORY_LIMIT = 500


def evaluate(folder: Path, console: Console, *, n_negatives: int = 0, negatives_seed: int = 42) -> dict[str, Any]:
    """The report of the run in `folder`, written beside it.

    Args:
        n_negatives: when above 0, also ranks each target among that many fixed random items, drawn once from
            `negatives_seed` and saved as `negatives.npz`, as the papers' tables do.

    Raises:
        RunError: not a finished run, or `negatives.npz` there was drawn for other cases.
    """
    run = runs.load_run(folder)
    cases = run.split.test
    with bar(console) as progress:
        task = progress.add_task("ranking the whole catalogue", total=len(cases))
        ranking = rank_cases(run.model, cases, on_progress=lambda n: progress.advance(task, n))
    popularity = np.bincount(run.split.train.items, minlength=len(run.dataset.item_ids) + 1)
    groups, definitions = _groups(run.split.train.lengths, popularity, cases)
    report: dict[str, Any] = {
        "run": run.config["name"],
        "command": f"python -m models evaluate {folder.name}" + (f" --negatives {n_negatives}" if n_negatives else ""),
        "dataset": {"name": run.dataset.name, "sha256": run.dataset.digest},
        "model": run.config["model"],
        "loss": run.config["loss"],
        "seed": run.config["seed"],
        "policy": {
            "protocol": "full ranking",
            "split": run.split.name,
            "seen_filtered": True,
            "repeats": "a target already in the history counts as a miss",
            "dropped_targets": {},
            "tie_rule": "lowest item_id",
            "history_length": run.model.config.max_seq_len,
        },
        "groups": definitions,
        "test": by_group(ranking.ranks, groups),
        "without_untrained_targets": {
            "n_dropped": int((popularity[cases.targets] == 0).sum()),
            **metrics_of(ranking.ranks[popularity[cases.targets] > 0]),
        },
        "training": json.loads((folder / runs.SUMMARY).read_bytes()),
    }
    if n_negatives:
        negatives = _saved_negatives(folder, cases, len(run.dataset.item_ids), n_negatives, negatives_seed)
        ranks = rank_against(run.model, cases, negatives)
        report["sampled"] = {"n_negatives": n_negatives, "seed": negatives_seed, "test": by_group(ranks, groups)}
        np.savez_compressed(folder / "sampled_ranks.npz", ranks=ranks)
    membership = {f"group:{name}": member for name, member in groups.items()}
    np.savez_compressed(folder / "ranks.npz", ranks=ranking.ranks, **membership)  # type: ignore[arg-type]
    _write_predictions(folder / "predictions.parquet", run, ranking)
    curve = [json.loads(line) for line in (folder / runs.METRICS).read_text().splitlines()]
    lengths = run.split.train.lengths[cases.user_index]
    page = render_page(report, curve, ranking.ranks, lengths, popularity[cases.targets])
    runs.write_atomic(folder / "evaluation.html", page.encode())
    runs.write_atomic(folder / "evaluation.json", json.dumps(report, indent=2).encode())
    return report


def _groups(
    train_lengths: NDArray[np.int64], popularity: NDArray[np.int64], cases: EvalCases
) -> tuple[dict[str, NDArray[np.bool_]], dict[str, Any]]:
    """Group membership of each case, and how each group is defined."""
    tail = tail_items(popularity)
    threshold = tail_user_threshold(train_lengths)
    tail_target, tail_user = tail[cases.targets], train_lengths[cases.user_index] < threshold
    groups = {
        "tail_item": tail_target,
        "head_item": ~tail_target,
        "tail_user": tail_user,
        "head_user": ~tail_user,
    }
    definitions: dict[str, Any] = {
        "tail_item": "the 80 % of items with the fewest training interactions, ties by item_id",
        "n_tail_items": int(tail.sum()),
        "n_head_items": len(popularity) - 1 - int(tail.sum()),
        "most_interactions_of_a_tail_item": int(popularity[tail].max()) if tail.any() else 0,
        "tail_user": f"training length below {threshold:g}, the data set's 80th percentile",
        "tail_user_threshold": threshold,
    }
    if cases.distinct_times is not None:
        groups["distinct_times"] = cases.distinct_times
        definitions["distinct_times"] = "users whose last two timestamps differ"
    return groups, definitions


def _saved_negatives(folder: Path, cases: EvalCases, n_items: int, n_negatives: int, seed: int) -> NDArray[np.int64]:
    path = folder / "negatives.npz"
    if not path.exists():
        drawn = draw_negatives(cases, n_items, n_negatives, seed)
        np.savez_compressed(path, negatives=drawn, seed=seed)
    with np.load(path) as saved:
        negatives: NDArray[np.int64] = saved["negatives"]
        if negatives.shape != (len(cases), n_negatives) or int(saved["seed"]) != seed:
            raise RunError(
                f"{path}: holds negatives {negatives.shape} of seed {int(saved['seed'])}, "
                f"expected {(len(cases), n_negatives)} of seed {seed}; remove the file to draw them again"
            )
    return negatives


def _write_predictions(path: Path, run: runs.Run, ranking: Ranking) -> None:
    cases, names = run.split.test, np.array(["", *run.dataset.item_ids], dtype=object)
    histories = [names[cases.inputs[row][-HISTORY_LIMIT:]].tolist() for row in range(len(cases))]
    table = pa.table(
        {
            "user_id": pa.array([run.dataset.user_ids[user] for user in cases.user_index], pa.string()),
            "target": pa.array(names[cases.targets].tolist(), pa.string()),
            "history": pa.array(histories, pa.list_(pa.string())),
            "items": pa.array(names[ranking.items].tolist(), pa.list_(pa.string())),
            "scores": pa.array(ranking.scores.tolist(), pa.list_(pa.float32())),
        }
    )
    partial = path.with_name(path.name + ".partial")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)
