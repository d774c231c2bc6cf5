"""How every retriever is judged: its held-out targets ranked among the whole catalogue, by group.

ranks.npz             0-based rank of each test target, the groups it is in, its case where cases have several targets,
                      and its session where sessions have several cases
predictions.parquet   per test case: history, targets, top-20 items and scores; the service's answers are held to it
negatives.npz, sampled_ranks.npz    where fixed random negatives are asked for
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from models.contracts import RetrieverModel, ScoringModel, Tested
from models.data.dataset import Dataset
from models.data.splits import EvalCases, Split
from models.errors import RunError
from models.evaluation_page import Plot
from models.metrics import by_group, case_values, metrics_of, tail_items, tail_user_threshold
from models.progress import bar
from models.ranking import Ranking, draw_negatives, rank_against, rank_cases

# What a request of the service may carry; longer histories are cut to their newest events.
HISTORY_LIMIT = 500


class RetrievalExam:
    """Full ranking of the split's cases."""

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        *,
        criterion: str,
        headline: tuple[str, str] | None = None,
        filter_seen: bool = True,
    ) -> None:
        """
        Args:
            criterion: what early stopping looks at.
            headline: the two metrics a report is told by; by default those of the cases.
            filter_seen: items of the input are no answers; false where they are clicked again.
        """
        self.dataset, self.split, self.criterion = dataset, split, criterion
        self.headline, self.filter_seen = headline or split.test.headline, filter_seen

    def validate(self, model: nn.Module) -> dict[str, float]:
        cases = self.split.valid
        ranking = rank_cases(_judged(model), cases, filter_seen=self.filter_seen, top=0)
        return metrics_of(ranking.ranks, rows=cases.rows)

    def test(self, model: nn.Module, folder: Path, console: Console, n_negatives: int, negatives_seed: int) -> Tested:
        """
        Raises:
            RunError: negatives are asked for and cases have several targets, or `negatives.npz` there was drawn for
                other cases.
        """
        judged, cases, train = _judged(model), self.split.test, self.split.train
        with bar(console) as progress:
            task = progress.add_task("ranking the whole catalogue", total=len(cases))
            ranking = rank_cases(
                judged, cases, filter_seen=self.filter_seen, on_progress=lambda n: progress.advance(task, n)
            )
        popularity = np.bincount(train.items, minlength=self.dataset.n_items + 1)
        groups, definitions = _groups(train.lengths, popularity, cases)
        trained = popularity[cases.targets] > 0
        report: dict[str, Any] = {
            "policy": {
                "protocol": "full ranking",
                "split": self.split.name,
                "seen_filtered": self.filter_seen,
                "repeats": (
                    "a target already in the history counts as a miss"
                    if self.filter_seen
                    else "items of the history are ranked like any other"
                ),
                "dropped_targets": {},
                "tie_rule": "lowest item_id",
                "history_length": _history_length(judged),
            },
            "criterion": self.criterion,
            "headline": list(self.headline),
            "groups": definitions,
            "test": by_group(ranking.ranks, groups, cases.rows),
            "without_untrained_targets": {
                "n_dropped": int((~trained).sum()),
                **metrics_of(ranking.ranks[trained], rows=None if cases.rows is None else cases.rows[trained]),
            },
        }
        if n_negatives:
            ranks = self._among_negatives(judged, folder, n_negatives, negatives_seed)
            report["sampled"] = {"n_negatives": n_negatives, "seed": negatives_seed, "test": by_group(ranks, groups)}
            np.savez_compressed(folder / "sampled_ranks.npz", ranks=ranks)
        arrays: dict[str, NDArray[Any]] = {f"group:{name}": member for name, member in groups.items()}
        if cases.rows is not None:
            arrays["cases"] = cases.rows
        elif len(np.unique(cases.user_index)) < len(cases):
            arrays["owners"] = cases.user_index
        np.savez_compressed(folder / "ranks.npz", ranks=ranking.ranks, **arrays)  # type: ignore[arg-type]
        _write_predictions(folder / "predictions.parquet", self.dataset, cases, ranking)
        return Tested(report, _plots(self.headline, cases, ranking, _history_lengths(train.lengths, cases), popularity))

    def _among_negatives(
        self, model: RetrieverModel | ScoringModel, folder: Path, n_negatives: int, seed: int
    ) -> NDArray[np.int64]:
        cases = self.split.test
        if isinstance(model, ScoringModel):
            raise RunError(f"{folder.name}: a baseline without query vectors is ranked among the whole catalogue alone")
        if cases.rows is not None:
            raise RunError(f"split '{self.split.name}' has several targets a case; negatives are ranked with one alone")
        negatives = _saved_negatives(folder, cases, self.dataset.n_items, n_negatives, seed)
        return rank_against(model, cases, negatives)


def _judged(model: nn.Module) -> RetrieverModel | ScoringModel:
    assert isinstance(model, RetrieverModel | ScoringModel)
    return model


def _history_length(model: RetrieverModel | ScoringModel) -> int:
    """Newest items of a history that the model reads."""
    return model.max_seq_len if isinstance(model, ScoringModel) else model.describe_inputs().max_seq_len


def _history_lengths(train_lengths: NDArray[np.int64], cases: EvalCases) -> NDArray[np.int64]:
    """int64 by target: training interactions of its user; of a user training has not seen, those of the input."""
    lengths = train_lengths[cases.user_index]
    return cases.by_target(np.where(lengths > 0, lengths, cases.inputs.lengths))


def _groups(
    train_lengths: NDArray[np.int64], popularity: NDArray[np.int64], cases: EvalCases
) -> tuple[dict[str, NDArray[np.bool_]], dict[str, Any]]:
    """Group membership of each target, and how each group is defined."""
    tail = tail_items(popularity)
    threshold = tail_user_threshold(train_lengths[train_lengths > 0])
    tail_target, tail_user = tail[cases.targets], _history_lengths(train_lengths, cases) < threshold
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
    if cases.rows is not None:
        definitions["several_targets"] = "a group is of targets; a case counts there with those of its targets alone"
        definitions["tail_user"] += "; length of the input where training has not seen the user"
    if cases.rows is not None and cases.distinct_times is not None:
        definitions["distinct_times"] = "targets of another time than the newest event of the input"
    return groups, definitions


def _plots(
    headline: tuple[str, str],
    cases: EvalCases,
    ranking: Ranking,
    lengths: NDArray[np.int64],
    popularity: NDArray[np.int64],
) -> list[Plot]:
    """Where the model is good: by length of the history and by popularity of the target, a value for each target."""
    metric = headline[0 if cases.rows is not None else 1]  # of one target alone, recall@k is its hit
    values = case_values(metric, ranking.ranks)
    by_length = [0, 4, 6, 9, 15, 30, 100]
    by_popularity = [0, 1, 5, 10, 20, 50, 100]
    return [
        Plot(
            f"{metric} by length of the user's training history",
            "training interactions of the user",
            metric,
            lengths,
            values,
            by_length,
        ),
        Plot(
            f"{metric} by popularity of the target",
            "training interactions of the target",
            metric,
            popularity[cases.targets],
            values,
            by_popularity,
        ),
    ]


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


def _write_predictions(path: Path, dataset: Dataset, cases: EvalCases, ranking: Ranking) -> None:
    """`target` is the next item, `targets` all that count."""
    names = np.array(["", *dataset.item_ids], dtype=object)
    histories = [names[cases.inputs[row][-HISTORY_LIMIT:]].tolist() for row in range(len(cases))]
    targets = [names[found].tolist() for found in cases.targets_by_case()]
    table = pa.table(
        {
            "user_id": pa.array([dataset.user_ids[user] for user in cases.user_index], pa.string()),
            "target": pa.array([found[0] for found in targets], pa.string()),
            "targets": pa.array(targets, pa.list_(pa.string())),
            "history": pa.array(histories, pa.list_(pa.string())),
            "items": pa.array(names[ranking.items].tolist(), pa.list_(pa.string())),
            "scores": pa.array(ranking.scores.tolist(), pa.list_(pa.float32())),
        }
    )
    partial = path.with_name(path.name + ".partial")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)
