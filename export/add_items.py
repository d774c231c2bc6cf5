"""Items added to an artefact by their text: one more row in every item table, a new version, no training.

What places a new item is fitted anew at each call, from the run and its knowledge, within seconds. It is not kept in
the artefact, which holds only what serving needs, and so it cannot be of another training than the rows beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import torch
from rich.console import Console

from export.artefact import Draft, write_artefact
from export.errors import ExportError
from export.graphs import EncoderGraph
from export.items_file import external_table
from export.new_items_file import some
from export.parity import check_parity, torch_queries
from models.knowledge.new_texts import as_catalogue, new_item_vectors
from models.knowledge.recorded import open_recorded
from models.new_item_rows import fit_new_item_rows
from models.runs import Run
from service.artefact.directory import Artefact, list_versions
from service.artefact.files import CATALOGUE, ENCODER, ITEMS
from service.artefact.tables import Catalogue
from service.inference.runtime import make_session

# A row of the artefact and the same row of the run: one multiplication, perhaps on two machines.
_SAME_ROW = 1e-4


@dataclass(frozen=True)
class Added:
    """The new version, and how its new rows came about."""

    path: Path
    n_added: int
    n_items: int
    collaborative: dict[str, Any] | None


def add_items(
    artefact: Artefact,
    items: pa.Table,
    run: Run,
    root: Path,
    *,
    answers: Path | None = None,
    console: Console,
    on_step: Callable[[str], None] = lambda message: None,
) -> Added:
    """A new version of `artefact` below `root` with `items` after the rows it has; the old version stays as it is.

    A new item has popularity 0 and is available. Its title and category are those of its columns.

    Args:
        items: from `read_new_items`.
        run: the run the artefact was exported from.
        answers: folder of ingested vectors of the new texts, where the encoder is not on this machine.

    Raises:
        ExportError: an id the artefact has, an artefact of another run, an item table or file that cannot be extended.
        ModelsError: the model has no place for a text, an item has no text, another encoder made the knowledge.
        ArtefactRefused: the service would refuse the result.
    """
    label = f"{artefact.manifest.name}/{artefact.manifest.version}"
    _check_ids(label, artefact, items)
    _check_extendable(label, artefact)
    _check_same_run(label, artefact, run)
    on_step("fitting the map from texts to rows")
    popularity = np.bincount(run.split.train.items, minlength=len(run.dataset.item_ids) + 1)
    place = fit_new_item_rows(run.model, popularity)
    knowledge = _knowledge(run)
    on_step("encoding the new texts")
    vectors = new_item_vectors(items, knowledge, open_recorded(knowledge, answers), console)
    table = np.concatenate([artefact.items, place(vectors)])
    collaborative = None if place.collaborative is None else place.collaborative.describe()
    graph = EncoderGraph(run.model)
    graph.items = torch.from_numpy(table)

    def write(folder: Path) -> None:
        on_step("extending the encoder's table")
        onnx.save(extended_graph(artefact.path / ENCODER, artefact.items.shape, table.shape), folder / ENCODER)
        on_step("comparing ONNX Runtime with torch")
        check_parity(graph, make_session(folder / ENCODER, "cpu", intra_op_threads=1), graph.spec)

    manifest = artefact.manifest
    addition: dict[str, Any] = {
        "from_version": manifest.version,
        "n_items": items.num_rows,
        "encoder": knowledge["encoder"],
        "collaborative": collaborative,
    }
    earlier = manifest.dataset.get("added_items", [])
    assert isinstance(earlier, list)
    path = write_artefact(
        Draft(
            name=manifest.name,
            paper=manifest.paper,
            encoder=manifest.encoder,
            items=table,
            catalogue=_extended_catalogue(artefact, items),
            write_encoder=write,
            dataset={**manifest.dataset, "added_items": [*earlier, addition]},
            seed=manifest.seed,
            config=manifest.config,
            knowledge=manifest.knowledge,
            history_source=manifest.history_source,
            history_events=tuple(manifest.history_events),
            metrics=manifest.metrics,
            evaluation=manifest.evaluation,
            reference=lambda histories: torch_queries(graph, manifest.encoder, [list(one) for one in histories]),
            replaces=manifest.created_at,
        ),
        root,
        on_step,
    )
    return Added(path, items.num_rows, len(table) - 1, collaborative)


def locate(path: Path) -> Path:
    """The folder of a version: `path` itself, or the latest version below it where `path` is a name's folder."""
    versions = list_versions(path.resolve().parent, path.resolve().name)
    return path / versions[-1] if versions else path


def extended_graph(path: Path, old: tuple[int, ...], new: tuple[int, ...]) -> onnx.ModelProto:
    """The encoder in `path` with its look-up table of shape `old` in items.npy declared as one of shape `new`.

    Raises:
        ExportError: the graph reads items.npy in another way than by one table of that shape.
    """
    model = onnx.load(path, load_external_data=False)
    tables = [
        tensor
        for tensor in model.graph.initializer
        if any(entry.key == "location" and entry.value == ITEMS for entry in tensor.external_data)
    ]
    if not tables or any(tuple(tensor.dims) != tuple(old) for tensor in tables):
        shapes = [list(tensor.dims) for tensor in tables]
        raise ExportError(f"{path}: reads {ITEMS} as tables of shape {shapes}, expected {list(old)}; cannot extend it")
    names = {tensor.name for tensor in tables}
    for tensor in tables:
        tensor.CopyFrom(external_table(tensor.name, new))
    for value in (*model.graph.value_info, *model.graph.input):
        if value.name in names:
            value.type.tensor_type.shape.dim[0].dim_value = new[0]
    return model


def _check_ids(label: str, artefact: Artefact, items: pa.Table) -> None:
    known = [item_id for item_id in items["item_id"].to_pylist() if item_id in artefact.index_of]
    if known:
        raise ExportError(
            f"{label}: already has {len(known)} of the {items.num_rows} items ({some(known)}); expected new ones alone"
        )


def _check_extendable(label: str, artefact: Artefact) -> None:
    manifest = artefact.manifest
    other = [f"item table '{name}' ({table.file})" for name, table in manifest.item_tables.items() if name != "items"]
    named = {ENCODER, CATALOGUE, manifest.golden.file, *(table.file for table in manifest.item_tables.values())}
    other += [f"file {name}" for name in manifest.files if name not in named]
    if other:
        raise ExportError(f"{label}: {', '.join(other)} cannot be extended to new items; train and export again")


def _check_same_run(label: str, artefact: Artefact, run: Run) -> None:
    """The artefact's first rows are the run's: an adapter of another training would place items in another space."""
    n_items = len(run.dataset.item_ids)
    with torch.no_grad():
        table = run.model.item_table().numpy()
    of_run = f"was not exported from the run {run.path}"
    if artefact.items.shape[1] != table.shape[1] or len(artefact.items) < len(table):
        raise ExportError(
            f"{label}: {of_run}: its table is {list(artefact.items.shape)}, the run's {list(table.shape)}"
        )
    if tuple(artefact.item_ids[1 : n_items + 1]) != run.dataset.item_ids:
        raise ExportError(f"{label}: {of_run}: its first {n_items:,} ids are not the run's")
    gap = np.abs(artefact.items[: len(table)] - table).max(axis=1)
    if gap.max() > _SAME_ROW * float(np.abs(table).max()):
        raise ExportError(f"{label}: {of_run}: row {int(gap.argmax())} differs by {gap.max():.3g}")


def _knowledge(run: Run) -> dict[str, Any]:
    assert run.knowledge is not None, "a model with a semantic view has knowledge"
    if "shuffled" in run.knowledge:
        raise ExportError(f"{run.path}: was trained on shuffled knowledge, where a text says nothing of its item")
    return run.knowledge


def _extended_catalogue(artefact: Artefact, items: pa.Table) -> Catalogue:
    n_new = items.num_rows
    texts = as_catalogue(items)
    return Catalogue(
        item_ids=[*artefact.item_ids[1:], *items["item_id"].to_pylist()],
        titles=[*artefact.titles[1:], *(title or None for title in texts.item_titles())],
        categories=[*artefact.categories[1:], *(category or None for category in texts.item_categories())],
        popularity=np.concatenate([artefact.popularity[1:], np.zeros(n_new, np.int64)]),
        available=np.concatenate([artefact.available[1:], np.ones(n_new, np.bool_)]),
    )
