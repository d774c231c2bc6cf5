"""Artefacts without a model, through the same contract: what a real one must beat, and what the service costs alone.

`noop` gives a constant zero query, `topk_only` the vector of the last item, `popularity` the training counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from export.artefact import Draft, write_artefact
from export.errors import ExportError
from export.items_file import external_table
from models.data.dataset import read_dataset
from models.data.splits import SPLITS
from service.artefact.files import ENCODER
from service.artefact.manifest import EncoderSpec
from service.artefact.tables import Catalogue

_MAX_SEQ_LEN = 50
_OPSET = 20


class Columns(TypedDict, total=False):
    """What may be known of the items, aligned with `item_ids`; by default nothing, count 0, and available."""

    counts: ArrayLike
    titles: Sequence[str | None]
    categories: Sequence[str | None]
    available: ArrayLike


def write_noop(
    root: Path, *, item_ids: Sequence[str], dim: int = 1, name: str = "noop", **columns: Unpack[Columns]
) -> Path:
    """Folder of an artefact whose every score is 0, so that it answers with the first items: the service alone.

    Args:
        item_ids: ascending; the item index of item_ids[i] is i + 1.
    """
    return write_artefact(replace(_noop(make_catalogue(item_ids, **columns), dim), name=name), root)


def write_topk_only(
    root: Path,
    *,
    item_ids: Sequence[str],
    table: NDArray[np.float32] | None = None,
    name: str = "topk_only",
    **columns: Unpack[Columns],
) -> Path:
    """Folder of an artefact whose query is the last item's vector: the catalogue scan without an encoder.

    Args:
        table: float32 (n_items + 1, dim); by default `random_table`.
    """
    return write_artefact(replace(_topk_only(make_catalogue(item_ids, **columns), table), name=name), root)


def write_popularity(
    root: Path, *, item_ids: Sequence[str], name: str = "popularity", **columns: Unpack[Columns]
) -> Path:
    """Folder of an artefact that ranks by log(1 + training count), whatever the history."""
    return write_artefact(replace(_popularity(make_catalogue(item_ids, **columns)), name=name), root)


def write_baseline(
    kind: str,
    dataset_folder: Path,
    root: Path,
    *,
    name: str | None = None,
    split: str = "leave_one_out",
    on_step: Callable[[str], None] = lambda message: None,
) -> Path:
    """Folder of the baseline `kind` (noop, topk_only, popularity) over a dataset's catalogue and training counts.

    Raises:
        ExportError: no such split.
        DatasetError: the folder is not a dataset.
    """
    if split not in SPLITS:
        raise ExportError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
    dataset = read_dataset(dataset_folder)
    catalogue = make_catalogue(
        dataset.item_ids,
        counts=np.bincount(SPLITS[split](dataset).train.items, minlength=len(dataset.item_ids) + 1)[1:],
        titles=[title or None for title in dataset.item_titles()],
        categories=[category or None for category in dataset.item_categories()],
    )
    draft = replace(
        BASELINES[kind](catalogue),
        name=name or kind,
        dataset={"name": dataset.name, "sha256": dataset.digest, "split": split},
    )
    return write_artefact(draft, root, on_step)


def make_catalogue(item_ids: Sequence[str], **columns: Unpack[Columns]) -> Catalogue:
    """Catalogue of `item_ids` with what is not given filled in."""
    n_items = len(item_ids)
    return Catalogue(
        item_ids=list(item_ids),
        titles=list(columns.get("titles", [None] * n_items)),
        categories=list(columns.get("categories", [None] * n_items)),
        popularity=np.asarray(columns.get("counts", np.zeros(n_items)), np.int64),
        available=np.asarray(columns.get("available", np.ones(n_items)), np.bool_),
    )


def random_table(n_items: int, dim: int = 16, seed: int = 7) -> NDArray[np.float32]:
    """float32 (n_items + 1, dim): seeded normal rows below a zero row 0."""
    table = np.random.default_rng(seed).standard_normal((n_items + 1, dim)).astype(np.float32)
    table[0] = 0.0
    return table


def _noop(catalogue: Catalogue, dim: int = 1) -> Draft:
    items = np.zeros((len(catalogue.item_ids) + 1, dim), np.float32)
    return _draft("noop", catalogue, items, _constant_query([0.0] * dim), minimum_history=0)


def _topk_only(catalogue: Catalogue, table: NDArray[np.float32] | None = None) -> Draft:
    items = random_table(len(catalogue.item_ids)) if table is None else table
    return _draft("topk_only", catalogue, items, _last_item(items.shape), minimum_history=1)


def _popularity(catalogue: Catalogue) -> Draft:
    items = np.log1p(np.concatenate([[0], catalogue.popularity])).astype(np.float32)[:, None]
    return _draft("popularity", catalogue, items, _constant_query([1.0]), minimum_history=0)


BASELINES: dict[str, Callable[[Catalogue], Draft]] = {
    "noop": _noop,
    "topk_only": _topk_only,
    "popularity": _popularity,
}


def _draft(
    kind: str, catalogue: Catalogue, items: NDArray[np.float32], model: onnx.ModelProto, minimum_history: int
) -> Draft:
    return Draft(
        name=kind,
        paper=None,
        encoder=EncoderSpec(
            kind=kind,
            padding="left",
            max_seq_len=_MAX_SEQ_LEN,
            dim=items.shape[1],
            n_queries=1,
            minimum_history=minimum_history,
        ),
        items=items,
        catalogue=catalogue,
        write_encoder=lambda folder: onnx.save(model, folder / ENCODER),
    )


def _constant_query(query: list[float]) -> onnx.ModelProto:
    """item_seq, seq_len -> the same query for every row."""
    nodes = [
        helper.make_node("Shape", ["seq_len"], ["batch"]),
        helper.make_node("Concat", ["batch", "one_one"], ["repeats"], axis=0),
        helper.make_node("Tile", ["row", "repeats"], ["queries"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([[query]], np.float32), "row"),
        numpy_helper.from_array(np.array([1, 1], np.int64), "one_one"),
    ]
    return _model(nodes, constants, len(query))


def _last_item(shape: tuple[int, ...]) -> onnx.ModelProto:
    """item_seq, seq_len -> row of items.npy of the newest item; left padding keeps it in the last column."""
    nodes = [
        helper.make_node("Gather", ["item_seq", "last"], ["newest"], axis=1),
        helper.make_node("Gather", ["items", "newest"], ["queries"], axis=0),
    ]
    constants = [numpy_helper.from_array(np.array([-1], np.int64), "last"), external_table("items", shape)]
    return _model(nodes, constants, shape[1])


def _model(nodes: list[onnx.NodeProto], constants: list[TensorProto], dim: int) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "encoder",
        [
            helper.make_tensor_value_info("item_seq", TensorProto.INT64, ["batch", "length"]),
            helper.make_tensor_value_info("seq_len", TensorProto.INT64, ["batch"]),
        ],
        [helper.make_tensor_value_info("queries", TensorProto.FLOAT, ["batch", 1, dim])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
