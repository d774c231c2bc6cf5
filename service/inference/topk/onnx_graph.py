"""A small ONNX graph as bytes, written without the onnx package, which serving does not install.

Field numbers are those of onnx.proto (ONNX IR); `tests/inference/test_onnx_graph.py` reads the bytes back with onnx.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_VARINT, _BYTES = 0, 2
_ELEMENT = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float64": 11}
_INT, _INTS = 2, 7  # AttributeProto.type
_IR_VERSION = 8
OPSET = 17

_Attribute = int | Sequence[int] | str


@dataclass
class GraphWriter:
    """Collects nodes, inputs, outputs and initializers; `model()` gives the file.

    Axes of inputs and outputs are sizes, or names of dynamic ones.
    """

    _nodes: list[bytes] = field(default_factory=list)
    _inputs: list[bytes] = field(default_factory=list)
    _outputs: list[bytes] = field(default_factory=list)
    _known: list[bytes] = field(default_factory=list)
    _initializers: list[bytes] = field(default_factory=list)

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: _Attribute) -> str:
        """The output's name. Attributes are integers, lists of them or element types, which is all that is needed."""
        self.node_with(op, inputs, [output], **attributes)
        return output

    def node_with(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: _Attribute) -> None:
        """Like `node`, for several outputs."""
        self._nodes.append(
            b"".join(_text(1, name) for name in inputs)
            + b"".join(_text(2, name) for name in outputs)
            + _text(4, op)
            + b"".join(_message(5, _attribute(name, value)) for name, value in attributes.items())
        )

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> None:
        self._inputs.append(_value(name, dtype, shape))

    def output(self, name: str, dtype: str, shape: Sequence[int | str]) -> None:
        self._outputs.append(_value(name, dtype, shape))

    def known(self, name: str, dtype: str, shape: Sequence[int | str]) -> None:
        """Says what shape a node's output has, where the nodes alone do not tell: only then is its memory reused."""
        self._known.append(_value(name, dtype, shape))

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        """The name of an initializer whose values are in the file."""
        axes = b"".join(_number(1, size) for size in values.shape)
        head = axes + _number(2, _ELEMENT[values.dtype.name]) + _text(8, name)
        self._initializers.append(head + _message(9, values.tobytes()))
        return name

    def model(self) -> bytes:
        graph = b"".join(
            [
                *(_message(1, node) for node in self._nodes),
                _text(2, "top_k"),
                *(_message(5, tensor) for tensor in self._initializers),
                *(_message(11, value) for value in self._inputs),
                *(_message(12, value) for value in self._outputs),
                *(_message(13, value) for value in self._known),
            ]
        )
        opset = _text(1, "") + _number(2, OPSET)
        return _number(1, _IR_VERSION) + _message(7, graph) + _message(8, opset)


def _attribute(name: str, value: _Attribute) -> bytes:
    if isinstance(value, str):
        value = _ELEMENT[value]
    if isinstance(value, int):
        return _text(1, name) + _number(3, value) + _number(20, _INT)
    return _text(1, name) + b"".join(_number(8, each) for each in value) + _number(20, _INTS)


def _value(name: str, dtype: str, shape: Sequence[int | str]) -> bytes:
    axes = b"".join(_message(1, _number(1, axis) if isinstance(axis, int) else _text(2, axis)) for axis in shape)
    tensor_type = _number(1, _ELEMENT[dtype]) + _message(2, axes)
    return _text(1, name) + _message(2, _message(1, tensor_type))


def _text(number: int, text: str) -> bytes:
    return _message(number, text.encode())


def _message(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers are written as 64-bit two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
