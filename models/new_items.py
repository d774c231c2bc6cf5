"""What a text alone is worth: items held out of training entirely, added back by their texts, against retraining.

FOLDER/held_out.json, dataset, knowledge, run   see `new_items_data`
FOLDER/new-items.json, new-items.md              the figures
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from models import runs
from models.contracts import EncoderInputs, RetrieverModel
from models.data.sequences import Sequences
from models.data.splits import EvalCases
from models.knowledge.new_texts import new_item_vectors
from models.knowledge.recorded import open_recorded
from models.metrics import metrics_of, paired_bootstrap
from models.new_item_rows import NewItemRows, fit_new_item_rows
from models.new_items_data import prepare
from models.progress import bar
from models.ranking import rank_against, rank_cases
from models.train import train

CUTOFFS: Final = (10, 20)
TEXT, RETRAINED = "text alone", "retrained with them"
POPULARITY, COUNTED = "popularity", "popularity, counted with them"
SHORT = "collaborative half not lengthened"
# Retraining, and counting, took in all but the last interactions: only the test cases are questions to them.
_NOT_ASKED_EVERY: Final = frozenset({RETRAINED, COUNTED})
# Rows of which it is asked what they do to the other items.
_ASKED_OLD: Final = frozenset({TEXT, SHORT, RETRAINED})


@dataclass(frozen=True, eq=False)
class _WithTable:
    """A model that reads another item table than its own."""

    model: RetrieverModel
    table: NDArray[np.float32]

    def describe_inputs(self) -> EncoderInputs:
        return self.model.describe_inputs()

    def item_table(self) -> Tensor:
        return torch.from_numpy(self.table)

    def encode_vectors(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> Tensor:
        return self.model.encode_vectors(vectors, item_seq, seq_len)


@dataclass(frozen=True, eq=False)
class _Popularity:
    """Ranks by counts (N,), whatever the history."""

    counts: NDArray[np.int64]

    def describe_inputs(self) -> EncoderInputs:
        return EncoderInputs("popularity", None, "left", "clean", max_seq_len=1, fixed_length=None, dim=1, n_queries=1)

    def item_table(self) -> Tensor:
        return torch.from_numpy(self.counts).float()[:, None]

    def encode_vectors(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> Tensor:
        return torch.ones(len(seq_len), 1, 1)


@dataclass(frozen=True, eq=False)
class _Cases:
    """The questions, in the item indices of one table."""

    new: EvalCases  # test targets that are new items
    every: EvalCases  # each interaction with a new item that has a history before it
    old: EvalCases  # test targets that are not new
    new_items: NDArray[np.int64]  # ascending indices


def measure(run_folder: Path, folder: Path, share: float, seed: int, console: Console) -> dict[str, Any]:
    """The report, written to `folder`; what is prepared or trained there already is not done again.

    Ranked are the run's own test cases whose target is a new item: no training, with or without the new items, saw
    anything of the user after it. `every interaction` asks more questions, but only of models that never saw them.

    Args:
        run_folder: a finished run with a semantic view; it is the retraining, and its recipe is trained without them.
        share: of all items.

    Raises:
        ModelsError: the run has no place for a text, or `folder` holds something else.
    """
    full = runs.load_run(run_folder)
    config = runs.read_run_config(run_folder)
    prepared = prepare(config, runs.load_inputs(config), folder, share, seed, console)
    train(prepared.config, folder / "run", console)
    without = runs.load_run(folder / "run")
    assert without.knowledge is not None, "a model with a semantic view has knowledge"
    place = fit_new_item_rows(without.model, _counts(without))
    texts = full.dataset.items.take(prepared.held_out - 1)
    vectors = new_item_vectors(texts, without.knowledge, open_recorded(without.knowledge), console)

    theirs = _cases(full, prepared.held_out)
    place_of = _places(full, without, prepared.held_out)
    ours = _renamed(theirs, place_of)
    counts, counted = _counts(without), _counts(full)
    models: dict[str, tuple[RetrieverModel, _Cases]] = {
        name: (_WithTable(without.model, table), ours) for name, table in _tables(without, place, vectors, seed)
    }
    models[POPULARITY] = (_Popularity(np.concatenate([counts, np.zeros(len(vectors), np.int64)])), ours)
    models[COUNTED] = (_Popularity(counted), theirs)
    models[RETRAINED] = (full.model, theirs)
    with _progress(console, models) as advance:
        found = {name: _figures(name, model, cases, advance) for name, (model, cases) in models.items()}
    report = _report(full, without, place, share, seed, found)
    report["items"] = {"n": len(prepared.held_out), "of": full.dataset.n_items}
    report["cases"] = {"new": len(ours.new), "every": len(ours.every), "old": len(ours.old)}
    runs.write_atomic(folder / "new-items.json", json.dumps(report, indent=2).encode() + b"\n")
    runs.write_atomic(folder / "new-items.md", as_markdown(report).encode())
    return report


def as_markdown(report: dict[str, Any]) -> str:
    """The figures as a table: hits on new items, among them, on each interaction with them, and on the others."""
    head = ["new items' rows", "hr@20", "hr@10", "ndcg@20", "hr@20 among new items", "hr@20 every interaction"]
    head += ["hr@20 other items", "new items among first 20 there"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for name, row in report["rows"].items():
        figures = [f"{row['new'][key]:.4f}" for key in ("hr@20", "hr@10", "ndcg@20")]
        figures.append(f"{row['among_new']['hr@20']:.4f}")
        figures.append("" if row["every"] is None else f"{row['every']['hr@20']:.4f}")
        old = row["old"]
        figures += ["", ""] if old is None else [f"{old['hr@20']:.4f}", f"{old['share_of_new']:.1%}"]
        lines.append("| " + " | ".join([name, *figures]) + " |")
    return "\n".join(lines) + "\n"


def _tables(
    without: runs.Run, place: NewItemRows, vectors: NDArray[np.float32], seed: int
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The item table with rows for the new items, as they are added, and with less or other than their texts."""
    with torch.no_grad():
        table = without.model.item_table().numpy()
    rows = place(vectors)
    yield TEXT, np.concatenate([table, rows])
    rng = np.random.default_rng(seed)
    if place.collaborative is not None:
        width = without.model.config.hidden_size
        trained = np.flatnonzero(_counts(without) > 0)
        drawn = table[rng.choice(trained, len(rows)), :width]
        short = rows[:, :width] / np.float32(place.collaborative.factor)
        for name, half in (
            ("semantic half alone", np.zeros_like(drawn)),
            (SHORT, short),
            ("collaborative half of a random item", drawn),
        ):
            yield name, np.concatenate([table, np.concatenate([half, rows[:, width:]], axis=1)])
        yield (
            "collaborative half alone",
            np.concatenate([table, np.concatenate([rows[:, :width], np.zeros_like(rows[:, width:])], axis=1)]),
        )
    yield "text of another new item", np.concatenate([table, rows[rng.permutation(len(rows))]])


def _figures(name: str, model: RetrieverModel, cases: _Cases, advance: Any) -> dict[str, Any]:
    ranks = rank_cases(model, cases.new, top=0, on_progress=advance).ranks
    others = np.tile(cases.new_items, (len(cases.new), 1))
    others = others[others != cases.new.targets[:, None]].reshape(len(cases.new), -1)
    among = rank_against(model, cases.new, others)
    found: dict[str, Any] = {"ranks": ranks, "new": metrics_of(ranks, CUTOFFS), "among_new": metrics_of(among, CUTOFFS)}
    found["every"] = found["old"] = None
    if name not in _NOT_ASKED_EVERY:
        found["every"] = metrics_of(rank_cases(model, cases.every, top=0, on_progress=advance).ranks, CUTOFFS)
    if name in _ASKED_OLD and len(cases.old):
        old = rank_cases(model, cases.old, top=20, on_progress=advance)
        share = float(np.isin(old.items, cases.new_items).mean())
        found["old"] = {**metrics_of(old.ranks, CUTOFFS), "share_of_new": share}
    return found


def _report(
    full: runs.Run, without: runs.Run, place: NewItemRows, share: float, seed: int, found: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    hits = {name: (figures["ranks"] < 20).astype(np.float64) for name, figures in found.items()}
    differences = {}
    for name in hits:
        if name != TEXT:
            mean, low, high = paired_bootstrap(hits[TEXT], hits[name], seed=0)
            differences[name] = {"hr@20": mean, "low": low, "high": high}
    return {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version()},
        "command": f"python -m models new-items {full.path.name} --share {share:g} --seed {seed}",
        "run": full.config["name"],
        "dataset": {"name": full.dataset.name, "sha256": full.dataset.digest},
        "policy": "full ranking, items of the history filtered, ties to the lowest row",
        "trainings": {
            "with": json.loads((full.path / runs.SUMMARY).read_bytes())["validation"],
            "without": json.loads((without.path / runs.SUMMARY).read_bytes())["validation"],
        },
        "collaborative": None if place.collaborative is None else place.collaborative.describe(),
        "rows": {
            name: {key: value for key, value in figures.items() if key != "ranks"} for name, figures in found.items()
        },
        f"'{TEXT}' minus": differences,
    }


def _cases(full: runs.Run, held_out: NDArray[np.int64]) -> _Cases:
    """The questions in the item indices of the full dataset."""
    test, sequences = full.split.test, full.dataset.sequences
    is_new = np.isin(test.targets, held_out)
    position = np.arange(len(sequences.items)) - sequences.offsets[sequences.rows]
    at = np.flatnonzero(np.isin(sequences.items, held_out) & (position > 0))
    users = sequences.rows[at]
    before = Sequences.from_lists(sequences[user][:n] for user, n in zip(users, position[at], strict=True))
    return _Cases(
        new=_taken(test, np.flatnonzero(is_new)),
        every=EvalCases(users, before, sequences.items[at], None),
        old=_taken(test, np.flatnonzero(~is_new)),
        new_items=held_out,
    )


def _taken(cases: EvalCases, rows: NDArray[np.int64]) -> EvalCases:
    return EvalCases(cases.user_index[rows], cases.inputs.take(rows), cases.targets[rows], None)


def _places(full: runs.Run, without: runs.Run, held_out: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 (n_items + 1,): the row of each item of the full dataset in the extended table."""
    n_old = without.dataset.n_items
    row_of = {item_id: row for row, item_id in enumerate(without.dataset.item_ids, 1)}
    row_of |= {full.dataset.item_ids[item - 1]: n_old + row for row, item in enumerate(held_out, 1)}
    return np.array([0, *(row_of[item_id] for item_id in full.dataset.item_ids)])


def _renamed(cases: _Cases, place_of: NDArray[np.int64]) -> _Cases:
    def renamed(one: EvalCases) -> EvalCases:
        return replace(one, inputs=replace(one.inputs, items=place_of[one.inputs.items]), targets=place_of[one.targets])

    return _Cases(renamed(cases.new), renamed(cases.every), renamed(cases.old), place_of[cases.new_items])


def _counts(run: runs.Run) -> NDArray[np.int64]:
    return np.bincount(run.split.train.items, minlength=run.dataset.n_items + 1)


@contextmanager
def _progress(console: Console, models: dict[str, tuple[RetrieverModel, _Cases]]) -> Iterator[Any]:
    total = sum(
        len(cases.new)
        + (0 if name in _NOT_ASKED_EVERY else len(cases.every))
        + (len(cases.old) if name in _ASKED_OLD else 0)
        for name, (_, cases) in models.items()
    )
    with bar(console) as progress:
        task = progress.add_task("ranking the whole catalogue", total=total)
        yield lambda n: progress.advance(task, n)
