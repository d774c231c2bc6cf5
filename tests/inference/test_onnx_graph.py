"""The graph writer's bytes, read back by the onnx package."""

from __future__ import annotations

import numpy as np
import onnx

from service.inference.topk.onnx_graph import OPSET, GraphWriter


def test_onnx_reads_what_was_written() -> None:
    graph = GraphWriter()
    graph.input("queries", "float32", ["n", 2])
    graph.input("k", "int64", [1])
    graph.output("scores", "float32", ["n", "k"])
    graph.output("places", "int64", ["n", "k"])
    table = graph.constant("table", np.array([[1, 0], [0, 1], [1, 1]], np.float32))
    every = graph.node("Gemm", ["queries", table], "every", transB=1)
    shape = graph.constant("shape", np.array([-1, 3]))
    graph.node("Reshape", [every, shape], "shaped")
    graph.node("Transpose", ["shaped"], "turned", perm=[1, 0])
    graph.node("Transpose", ["turned"], "back", perm=[1, 0])
    graph.known("back", "float32", ["n", 3])
    graph.node_with("TopK", ["back", "k"], ["scores", "places"], axis=-1)

    model = onnx.load_from_string(graph.model())

    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == OPSET
    assert [node.op_type for node in model.graph.node] == ["Gemm", "Reshape", "Transpose", "Transpose", "TopK"]
    assert [axis.dim_param or axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim] == ["n", 2]
    (known,) = model.graph.value_info
    assert known.name == "back"
    assert [axis.dim_param or axis.dim_value for axis in known.type.tensor_type.shape.dim] == ["n", 3]
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor).tolist() for tensor in model.graph.initializer}
    assert constants == {"table": [[1, 0], [0, 1], [1, 1]], "shape": [-1, 3]}
    (axis,) = model.graph.node[-1].attribute
    assert (axis.name, axis.i) == ("axis", -1)
    assert list(model.graph.node[2].attribute[0].ints) == [1, 0]


def test_numbers_of_more_than_seven_bits_keep_their_value() -> None:
    graph = GraphWriter()
    graph.input("x", "float32", [300, 70_000])
    graph.output("y", "float32", [300, 70_000])
    graph.node("Identity", ["x"], "y")
    shape = onnx.load_from_string(graph.model()).graph.input[0].type.tensor_type.shape
    assert [axis.dim_value for axis in shape.dim] == [300, 70_000]
