"""Where the weights of an ONNX file lie, read without onnx and before ONNX Runtime opens the file.

ONNX Runtime follows `external_data` to other files. An artefact may name only files of its own folder there, so the
locations are read from the protobuf wire format first: a walk over the few message fields that can hold a tensor.
Field numbers are those of onnx.proto (ONNX IR, `onnx/onnx.proto`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# message -> field number -> message that lies there
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_TENSOR_NAME, _TENSOR_EXTERNAL = 8, 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

# Subgraphs nest (If, Loop); nothing real comes near this, and it bounds a hostile file.
_DEPTH_LIMIT = 32


class OnnxFileError(ValueError):
    """The bytes are not a readable ONNX protobuf."""


@dataclass(frozen=True)
class ExternalTensor:
    """A tensor whose bytes lie in another file: `length` bytes from `offset` of `location` (None = to the end)."""

    name: str
    location: str
    offset: int
    length: int | None


def external_tensors(path: Path) -> list[ExternalTensor]:
    """Every tensor of the file that points outside it, in subgraphs, attributes and functions too.

    Raises:
        OnnxFileError: the bytes are not a readable ONNX protobuf.
    """
    found: list[ExternalTensor] = []
    pending: list[tuple[str, memoryview, int]] = [("model", memoryview(path.read_bytes()), 0)]
    while pending:
        message, data, depth = pending.pop()
        if depth > _DEPTH_LIMIT:
            raise OnnxFileError(f"graphs are nested deeper than {_DEPTH_LIMIT} levels")
        if message == "tensor":
            found.extend(_external(data))
            continue
        children = _CHILDREN[message]
        for field, value in _fields(data):
            if field in children and value is not None:
                pending.append((children[field], value, depth + 1))
    return found


def _external(tensor: memoryview) -> Iterator[ExternalTensor]:
    name, locations, numbers = "", [], {}
    for field, value in _fields(tensor):
        if value is None:
            continue
        if field == _TENSOR_NAME:
            name = _text(value)
        elif field == _TENSOR_EXTERNAL:
            entry = {key: _text(text) for key, text in _fields(value) if text is not None}
            key, content = entry.get(_ENTRY_KEY, ""), entry.get(_ENTRY_VALUE, "")
            if key == "location":
                locations.append(content)
            elif key in ("offset", "length"):
                if not content.isascii() or not content.isdigit():
                    raise OnnxFileError(f"tensor {name!r} has {key} {content!r}, expected a number")
                numbers[key] = int(content)
    # A repeated key is legal protobuf: every location is reported, not only the one that wins.
    for location in locations:
        yield ExternalTensor(name, location, numbers.get("offset", 0), numbers.get("length"))


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """(field number, bytes) of one message; None for numbers, which never hold a tensor."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        field, wire_type = key >> 3, key & 7
        if wire_type == _BYTES:
            size, position = _varint(data, position)
            if size > len(data) - position:
                raise OnnxFileError("a field ends after its message")
            yield field, data[position : position + size]
            position += size
        elif wire_type == _VARINT:
            _, position = _varint(data, position)
            yield field, None
        elif wire_type in (_FIXED32, _FIXED64):
            position += 4 if wire_type == _FIXED32 else 8
            if position > len(data):
                raise OnnxFileError("a number ends after its message")
            yield field, None
        else:
            raise OnnxFileError(f"wire type {wire_type} is not part of protobuf 3")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise OnnxFileError("the file ends inside a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise OnnxFileError("a number is longer than ten bytes")


def _text(value: memoryview) -> str:
    try:
        return bytes(value).decode()
    except UnicodeDecodeError as error:
        raise OnnxFileError("a string is not UTF-8") from error
