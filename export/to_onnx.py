"""From a torch encoder to `encoder.onnx`, its item look-up pointing at items.npy."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from service.artefact.files import ITEMS

OPSET = 20


def external_table(name: str, shape: Sequence[int]) -> TensorProto:
    """A float32 initializer whose bytes are items.npy itself, after its header: one copy on disk and in memory."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": tuple(map(int, shape))}
    )
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    length = int(np.prod(shape, dtype=np.int64)) * np.dtype(np.float32).itemsize
    for key, value in {"location": ITEMS, "offset": header.tell(), "length": length}.items():
        tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=str(value)))
    return tensor
