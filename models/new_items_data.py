"""A run's data without some of its items: what a shop had before they were added.

FOLDER/held_out.json   which items, and by which share and seed they were drawn
FOLDER/dataset         the dataset without them and without every interaction with them
FOLDER/knowledge       LLM knowledge of that dataset; its user texts quote none of them
FOLDER/run             the same recipe, trained on that
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.console import Console

from models import runs
from models.config import LLMESRConfig, RunConfig
from models.data.dataset import Dataset, read_dataset, write_dataset
from models.data.folder import INTERACTIONS, read_tables
from models.data.splits import SPLITS
from models.errors import RunError
from models.knowledge.kept_vectors import KeptVectors
from models.knowledge.prompts import item_prompts, user_prompts
from models.knowledge.recorded import open_recorded
from models.knowledge.store import Knowledge, build_knowledge

HELD_OUT = "held_out.json"


@dataclass(frozen=True)
class WithoutItems:
    """What was prepared: the configuration of the run without the items, and the items' indices in the full dataset."""

    config: RunConfig
    held_out: NDArray[np.int64]  # (n,) ascending item indices of the full dataset


def prepare(
    full: RunConfig, inputs: runs.Inputs, folder: Path, share: float, seed: int, console: Console
) -> WithoutItems:
    """The data of `full` without a seeded `share` of its items, on disk; what is there already is kept.

    Items are drawn evenly among those that have a text and at least one interaction. No sequence, no catalogue row and
    no text the model trains on knows of them.

    Args:
        inputs: the loaded inputs of `full`.

    Raises:
        RunError: `folder` holds the same of another run, share or seed; the model cannot place an item by its text.
    """
    if inputs.knowledge is None or not isinstance(full.model, LLMESRConfig) or "semantic" not in full.model.views:
        raise RunError(f"run '{full.name}': its model has no semantic view, an item's text says nothing to it")
    held_out = draw(inputs.dataset, share, seed)
    _record(folder, full, inputs.dataset, share, seed, held_out)
    dataset_folder = folder / "dataset"
    if not (dataset_folder / INTERACTIONS).is_file():
        console.print(f"{dataset_folder}: without {len(held_out):,} of {inputs.dataset.n_items:,} items")
        ids = [inputs.dataset.item_ids[item - 1] for item in held_out]
        write_dataset(dataset_folder, *_tables_without(full.data.dataset, ids))
    without = read_dataset(dataset_folder)
    _build_knowledge(inputs, without, folder / "knowledge", full.data.split, console)
    data = full.data.model_copy(update={"dataset": dataset_folder, "knowledge": folder / "knowledge"})
    return WithoutItems(full.model_copy(update={"name": f"{full.name[:50]}-without", "data": data}), held_out)


def draw(dataset: Dataset, share: float, seed: int) -> NDArray[np.int64]:
    """Item indices, ascending: a seeded `share` of all items, drawn among those with a text and an interaction."""
    has_text = np.array([prompt != "unknown" for prompt in item_prompts(dataset)])
    has_events = np.bincount(dataset.sequences.items, minlength=dataset.n_items + 1)[1:] > 0
    choices = np.flatnonzero(has_text & has_events) + 1
    n = min(len(choices) - 1, max(1, round(share * dataset.n_items)))
    if n < 1:
        raise RunError(f"dataset '{dataset.name}': {len(choices)} items have a text and an interaction, expected 2")
    drawn: NDArray[np.int64] = np.sort(np.random.default_rng(seed).choice(choices, n, replace=False))
    return drawn


def _tables_without(folder: Path, ids: list[str]) -> tuple[pa.Table, pa.Table | None]:
    tables = read_tables(folder)
    gone = pa.array(ids, pa.string())

    def others(table: pa.Table) -> pa.Table:
        return table.filter(pc.invert(pc.is_in(table["item_id"].cast(pa.string()), value_set=gone)))

    return others(tables.interactions), None if tables.items is None else others(tables.items)


def _build_knowledge(inputs: runs.Inputs, without: Dataset, folder: Path, split: str, console: Console) -> None:
    """Knowledge of the dataset without the items, by the encoder of the full one; known texts are not repeated."""
    knowledge = inputs.knowledge
    assert knowledge is not None
    build_knowledge(
        without,
        SPLITS[split](without),
        folder,
        KeptVectors(
            knowledge.provenance["encoder"],
            knowledge.provenance["test_only"],
            _kept_texts(inputs, knowledge),
            lambda: open_recorded(knowledge.provenance),
        ),
        n_similar=knowledge.provenance["n_similar"],
        n_components=knowledge.provenance["n_components"],
        console=console,
    )


def _kept_texts(inputs: runs.Inputs, knowledge: Knowledge) -> dict[str, NDArray[np.float32]]:
    users = user_prompts(inputs.dataset, inputs.split.train)
    items = item_prompts(inputs.dataset)
    return {
        **dict(zip(users, knowledge.user_vectors, strict=True)),
        **dict(zip(items, knowledge.item_vectors[1:], strict=True)),
    }


def _record(
    folder: Path, full: RunConfig, dataset: Dataset, share: float, seed: int, held_out: NDArray[np.int64]
) -> None:
    record: dict[str, Any] = {
        "run": full.name,
        "dataset": {"name": dataset.name, "sha256": dataset.digest},
        "share": share,
        "seed": seed,
        "item_ids": [dataset.item_ids[item - 1] for item in held_out],
    }
    path = folder / HELD_OUT
    if path.is_file():
        found = json.loads(path.read_bytes())
        for key in ("run", "dataset", "share", "seed", "item_ids"):
            if found.get(key) != record[key]:
                raise RunError(f"{path}: has another {key} than this call, name another folder with --out")
        return
    folder.mkdir(parents=True, exist_ok=True)
    runs.write_atomic(path, json.dumps(record, indent=2).encode() + b"\n")
