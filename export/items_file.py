"""The one copy of the item table: an ONNX initializer whose bytes are items.npy itself."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto

from service.artefact.files import ITEMS

INTENT_ITEMS: Final = "intent_items.npy"  # of a model with intents: every item as one, row-aligned with items.npy


def table_range(shape: Sequence[int]) -> tuple[int, int]:
    """Offset and length in bytes of a float32 table of this shape in the file that `np.save` writes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": tuple(map(int, shape))}
    )
    return header.tell(), int(np.prod(shape, dtype=np.int64)) * np.dtype(np.float32).itemsize


def external_table(name: str, shape: Sequence[int]) -> TensorProto:
    """A float32 initializer that lies in items.npy, after its header."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    offset, length = table_range(shape)
    for key, value in {"location": ITEMS, "offset": offset, "length": length}.items():
        tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=str(value)))
    return tensor
