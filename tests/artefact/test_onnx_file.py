from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from service.artefact.onnx_file import ExternalTensor, OnnxFileError, external_tensors


def external(name: str, location: str, **numbers: int) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **numbers}.items():
        tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=str(value)))
    return tensor


def model_with(*, initializers: list[TensorProto] | None = None, nodes: list[onnx.NodeProto] | None = None) -> bytes:
    graph = helper.make_graph(nodes or [], "g", [], [], initializers or [])
    return bytes(helper.make_model(graph).SerializeToString())


def found(tmp_path: Path, content: bytes) -> list[ExternalTensor]:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(content)
    return external_tensors(path)


def test_weights_inside_the_file_are_not_external(tmp_path: Path) -> None:
    inline = numpy_helper.from_array(np.arange(100, dtype=np.float32), "w")
    assert found(tmp_path, model_with(initializers=[inline])) == []


def test_name_location_and_range_of_an_initializer_are_read(tmp_path: Path) -> None:
    content = model_with(initializers=[external("items", "items.npy", offset=128, length=64), external("w", "../x")])
    assert sorted(found(tmp_path, content), key=lambda tensor: tensor.name) == [
        ExternalTensor("items", "items.npy", 128, 64),
        ExternalTensor("w", "../x", 0, None),
    ]


def test_tensors_in_attributes_subgraphs_and_functions_are_found(tmp_path: Path) -> None:
    branch = helper.make_graph([], "branch", [], [], [external("in_subgraph", "b")])
    deep = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=branch)], "deep", [], [])
    nodes = [
        helper.make_node("Constant", [], ["a"], value=external("in_attribute", "a")),
        helper.make_node("Loop", ["n", "c"], ["z"], body=deep),
    ]
    model = onnx.ModelProto.FromString(model_with(nodes=nodes))
    constant = helper.make_node("Constant", [], ["f"], value=external("in_function", "f"))
    model.functions.append(helper.make_function("own", "F", [], ["f"], [constant], []))
    sparse = onnx.SparseTensorProto(values=external("in_sparse", "s"))
    model.graph.sparse_initializer.append(sparse)
    names = {tensor.name for tensor in found(tmp_path, model.SerializeToString())}
    assert names == {"in_attribute", "in_subgraph", "in_function", "in_sparse"}


def test_a_second_location_of_the_same_tensor_is_not_hidden(tmp_path: Path) -> None:
    tensor = external("w", "items.npy")
    tensor.external_data.append(onnx.StringStringEntryProto(key="location", value="/etc/passwd"))
    locations = [entry.location for entry in found(tmp_path, model_with(initializers=[tensor]))]
    assert locations == ["items.npy", "/etc/passwd"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x3a\x7f\x01", "ends after its message"),
        (b"\x3b", "wire type 3"),
        (b"\x08" + b"\xff" * 11, "longer than ten bytes"),
        (b"\x08", "ends inside a number"),
        (b"\x0d\x01", "ends after its message"),
    ],
)
def test_broken_protobuf_is_an_error_and_not_a_crash(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(OnnxFileError, match=message):
        found(tmp_path, content)


def test_an_offset_that_is_not_a_number_is_an_error(tmp_path: Path) -> None:
    tensor = external("w", "items.npy")
    tensor.external_data.append(onnx.StringStringEntryProto(key="offset", value="-1"))
    with pytest.raises(OnnxFileError, match="offset '-1', expected a number"):
        found(tmp_path, model_with(initializers=[tensor]))


def test_endless_nesting_is_an_error(tmp_path: Path) -> None:
    graph = helper.make_graph([], "leaf", [], [])
    for _ in range(12):  # each level is three messages deep: graph, node, attribute
        graph = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=graph)], "g", [], [])
    with pytest.raises(OnnxFileError, match="nested deeper than 32"):
        found(tmp_path, helper.make_model(graph).SerializeToString())


@given(st.binary(max_size=200))
def test_any_bytes_give_a_list_or_the_one_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(content)
    try:
        assert isinstance(external_tensors(path), list)
    except OnnxFileError as error:
        assert str(error)  # noqa: PT017 - either outcome is right
