"""Artefacts without a model, through the same contract: what a real one must beat, and what the service costs alone.

`noop` gives a constant zero query, `topk_only` the vector of the last item, `popularity` the training counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper
from pydantic import JsonValue

from export.artefact import Draft, write_artefact
from export.to_onnx import OPSET, external_table
from service.artefact.files import ENCODER
from service.artefact.manifest import EncoderSpec
from service.artefact.tables import Catalogue

_MAX_SEQ_LEN = 50


def write_noop(
    root: Path,
    *,
    item_ids: Sequence[str],
    counts: ArrayLike | None = None,
    titles: Sequence[str | None] | None = None,
    categories: Sequence[str | None] | None = None,
    available: ArrayLike | None = None,
    dim: int = 1,
    name: str = "noop",
    dataset: dict[str, JsonValue] | None = None,
) -> Path:
    """Folder of an artefact whose every score is 0, so that it answers with the first items: the service alone.

    Args:
        item_ids: ascending; item index of item_ids[i] is i + 1. The other columns are aligned with it.
        counts: training counts, 0 by default.
    """
    catalogue = make_catalogue(item_ids, counts, titles, categories, available)
    items = np.zeros((len(item_ids) + 1, dim), np.float32)
    encoder = _constant_query([0.0] * dim)
    return _write(root, name, "noop", catalogue, items, encoder, dataset, minimum_history=0)


def write_topk_only(
    root: Path,
    *,
    item_ids: Sequence[str],
    counts: ArrayLike | None = None,
    titles: Sequence[str | None] | None = None,
    categories: Sequence[str | None] | None = None,
    available: ArrayLike | None = None,
    table: NDArray[np.float32] | None = None,
    dim: int = 16,
    seed: int = 7,
    name: str = "topk_only",
    dataset: dict[str, JsonValue] | None = None,
) -> Path:
    """Folder of an artefact whose query is the last item's vector: the catalogue scan without an encoder.

    Args:
        table: float32 (n_items + 1, dim); by default seeded normal rows below a zero row 0.
    """
    catalogue = make_catalogue(item_ids, counts, titles, categories, available)
    if table is None:
        table = np.random.default_rng(seed).standard_normal((len(item_ids) + 1, dim)).astype(np.float32)
        table[0] = 0.0
    return _write(root, name, "topk_only", catalogue, table, _last_item(table.shape), dataset, seed=seed)


def write_popularity(
    root: Path,
    *,
    item_ids: Sequence[str],
    counts: ArrayLike,
    titles: Sequence[str | None] | None = None,
    categories: Sequence[str | None] | None = None,
    available: ArrayLike | None = None,
    name: str = "popularity",
    dataset: dict[str, JsonValue] | None = None,
) -> Path:
    """Folder of an artefact that ranks by log(1 + training count), whatever the history."""
    catalogue = make_catalogue(item_ids, counts, titles, categories, available)
    items = np.log1p(np.concatenate([[0], catalogue.popularity])).astype(np.float32)[:, None]
    return _write(root, name, "popularity", catalogue, items, _constant_query([1.0]), dataset, minimum_history=0)


def make_catalogue(
    item_ids: Sequence[str],
    counts: ArrayLike | None = None,
    titles: Sequence[str | None] | None = None,
    categories: Sequence[str | None] | None = None,
    available: ArrayLike | None = None,
) -> Catalogue:
    """Catalogue with what is not given filled in: no titles, no categories, count 0, everything available."""
    n_items = len(item_ids)
    return Catalogue(
        item_ids=list(item_ids),
        titles=[None] * n_items if titles is None else list(titles),
        categories=[None] * n_items if categories is None else list(categories),
        popularity=np.zeros(n_items, np.int64) if counts is None else np.asarray(counts, np.int64),
        available=np.ones(n_items, np.bool_) if available is None else np.asarray(available, np.bool_),
    )


def _write(
    root: Path,
    name: str,
    kind: str,
    catalogue: Catalogue,
    items: NDArray[np.float32],
    model: onnx.ModelProto,
    dataset: dict[str, JsonValue] | None,
    *,
    minimum_history: int = 1,
    seed: int | None = None,
) -> Path:
    draft = Draft(
        name=name,
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
        dataset=dataset or {},
        seed=seed,
    )
    return write_artefact(draft, root)


def _constant_query(query: list[float]) -> onnx.ModelProto:
    """item_seq, seq_len -> the same query for every row."""
    row = np.array([[query]], np.float32)
    nodes = [
        helper.make_node("Shape", ["seq_len"], ["batch"]),
        helper.make_node("Concat", ["batch", "one_one"], ["repeats"], axis=0),
        helper.make_node("Tile", ["row", "repeats"], ["queries"]),
    ]
    constants = [
        onnx.numpy_helper.from_array(row, "row"),
        onnx.numpy_helper.from_array(np.array([1, 1], np.int64), "one_one"),
    ]
    return _model(nodes, constants, len(query))


def _last_item(shape: tuple[int, ...]) -> onnx.ModelProto:
    """item_seq, seq_len -> row of items.npy of the newest item; left padding keeps it in the last column."""
    nodes = [
        helper.make_node("Gather", ["item_seq", "last"], ["newest"], axis=1),
        helper.make_node("Gather", ["items", "newest"], ["queries"], axis=0),
    ]
    constants = [onnx.numpy_helper.from_array(np.array([-1], np.int64), "last"), external_table("items", shape)]
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
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
