"""From a torch module to `encoder.onnx` or `ranker.onnx`, its item look-up pointing at items.npy."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from export.errors import ExportError
from export.graphs import EncoderGraph, RankerGraph
from export.items_file import table_range
from service.artefact.files import ENCODER, RANKER

OPSET = 20

_LARGEST_BATCH = 4096
_MOST_CANDIDATES = 4096


def write_encoder(graph: EncoderGraph, folder: Path) -> Path:
    """`folder/encoder.onnx` of the graph; its tables are not in it, look-ups read items.npy and such beside it.

    Both axes are dynamic, the length up to max_seq_len; a model with a fixed length gets that length.

    Raises:
        ExportError: a look-up did not survive as one initializer.
    """
    inputs = graph.inputs
    # An example axis of 1 would be taken for a constant.
    length = inputs.fixed_length or inputs.max_seq_len
    item_seq = torch.ones(2, length, dtype=torch.int64)
    seq_len = torch.full((2,), length, dtype=torch.int64)
    batch = torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)
    is_dynamic = inputs.fixed_length is None and inputs.max_seq_len > 1
    columns = {1: torch.export.Dim("length", min=1, max=inputs.max_seq_len)} if is_dynamic else {}
    examples = {"item_seq": item_seq, "seq_len": seq_len}
    axes = {"item_seq": {0: batch, **columns}, "seq_len": {0: batch}}
    return _write(graph, examples, axes, graph.outputs, folder / ENCODER)


def write_ranker(graph: RankerGraph, folder: Path) -> Path:
    """`folder/ranker.onnx` of the graph; its look-ups of histories and candidates read items.npy beside it.

    Batch, length (up to max_seq_len) and number of candidates are dynamic.

    Raises:
        ExportError: the item look-up did not survive as one initializer.
    """
    inputs = graph.inputs
    batch = torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)
    columns = {1: torch.export.Dim("length", min=1, max=inputs.max_seq_len)} if inputs.max_seq_len > 1 else {}
    examples = {
        "item_seq": torch.ones(2, inputs.max_seq_len, dtype=torch.int64),
        "seq_len": torch.full((2,), inputs.max_seq_len, dtype=torch.int64),
        "scenario_index": torch.zeros(2, dtype=torch.int64),
        "candidates": torch.ones(2, 3, dtype=torch.int64),
    }
    axes: dict[str, dict[int, Any]] = {name: {0: batch} for name in examples}
    axes["item_seq"] |= columns
    axes["candidates"][1] = torch.export.Dim("n_candidates", min=1, max=_MOST_CANDIDATES)
    if inputs.z_size:
        examples |= {"user_z": torch.zeros(2, inputs.z_size), "has_user_z": torch.ones(2, dtype=torch.int64)}
        axes |= {"user_z": {0: batch}, "has_user_z": {0: batch}}
    return _write(graph, examples, axes, ["scores"], folder / RANKER)


def _write(
    graph: EncoderGraph | RankerGraph,
    examples: dict[str, torch.Tensor],
    axes: dict[str, dict[int, Any]],
    outputs: list[str],
    path: Path,
) -> Path:
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph.eval(),
            tuple(examples.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(examples),
            output_names=outputs,
            dynamic_shapes=axes,
            verbose=False,
        )
    assert program is not None, "dynamo=True gives a program"
    model: onnx_ir.Model = program.model
    for name, file in graph.tables.items():
        _point_at(model, name, list(getattr(graph, name).shape), file, path)
    # Stack traces with this machine's paths, ten times the size of a small model's weights.
    ClearMetadataAndDocStringPass()(model)
    onnx_ir.save(model, path)
    return path


def _point_at(model: onnx_ir.Model, name: str, shape: list[int], file: str, path: Path) -> None:
    tables = [
        value
        for initializer, value in model.graph.initializers.items()
        if initializer.split(".")[-1] == name and value.shape is not None and list(value.shape.numpy()) == shape
    ]
    if len(tables) != 1:
        raise ExportError(
            f"{path.name}: {len(tables)} initializers hold the table '{name}' {shape}, expected 1; "
            "encode_vectors must get item vectors through its argument alone, and so must a served ranker"
        )
    offset, length = table_range(shape)
    tables[0].const_value = onnx_ir.ExternalTensor(
        file,
        offset=offset,
        length=length,
        dtype=onnx_ir.DataType.FLOAT,
        shape=onnx_ir.Shape(shape),
        name=str(tables[0].name),
        base_dir=path.parent,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter logs about packages it does not need, such as torchvision, and torch warns about its own internals
    (`isinstance(treespec, LeafSpec)` in torch 2.13); errors still come through."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", message="# The axis name: batch")  # both inputs share it on purpose
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
