from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.errors import PackError
from export.pack import Package, pack
from service.artefact.check import check_report
from service.artefact.onnx_file import external_tensors
from service.inference.loader import load

ITEMS = np.random.default_rng(2).standard_normal((7, 3)).astype(np.float32)
IDS = ["pear", "apple", "fig", "kiwi", "lime", "plum"]


def info(name: str, dtype: int, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    *,
    item_seq: onnx.ValueInfoProto | None = None,
    seq_len: onnx.ValueInfoProto | None = None,
    queries: onnx.ValueInfoProto | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "own",
        [
            item_seq or info("item_seq", TensorProto.INT64, ["n", "l"]),
            seq_len or info("seq_len", TensorProto.INT64, ["n"]),
        ],
        [queries or info("queries", TensorProto.FLOAT, ["n", 1, 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


LAST = np.array([-1], np.int64)


def last_item(table: np.ndarray = ITEMS, **changes: Any) -> onnx.ModelProto:
    """Query = vector of the newest item (left padding), the table inside the graph."""
    nodes = [
        helper.make_node("Gather", ["item_seq", "last"], ["newest"], axis=1),
        helper.make_node("Gather", ["table", "newest"], ["queries"], axis=0),
    ]
    return model(nodes, {"last": LAST, "table": table}, **changes)


def mean_of_all_columns() -> onnx.ModelProto:
    """Forgets to mask: the mean runs over padding too."""
    nodes = [
        helper.make_node("Gather", ["table", "item_seq"], ["vectors"], axis=0),
        helper.make_node("ReduceMean", ["vectors", "axis"], ["queries"], keepdims=1),
    ]
    return model(nodes, {"axis": np.array([1], np.int64), "table": ITEMS + np.float32(1)})


def mean_of_the_batch() -> onnx.ModelProto:
    """Adds the mean over the batch: other people's histories leak in."""
    nodes = [
        helper.make_node("Gather", ["item_seq", "last"], ["newest"], axis=1),
        helper.make_node("Gather", ["table", "newest"], ["own"], axis=0),
        helper.make_node("ReduceMean", ["own", "axis"], ["all"], keepdims=1),
        helper.make_node("Add", ["own", "all"], ["queries"]),
    ]
    return model(nodes, {"last": LAST, "axis": np.array([0], np.int64), "table": ITEMS})


def division_by_the_length() -> onnx.ModelProto:
    """An empty history is divided by zero."""
    nodes = [
        helper.make_node("Gather", ["item_seq", "last"], ["newest"], axis=1),
        helper.make_node("Gather", ["table", "newest"], ["own"], axis=0),
        helper.make_node("Cast", ["seq_len"], ["n_items"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["n_items", "axes"], ["divisor"]),
        helper.make_node("Div", ["own", "divisor"], ["queries"]),
    ]
    return model(nodes, {"last": LAST, "axes": np.array([1, 2], np.int64), "table": ITEMS})


def one_row_only() -> onnx.ModelProto:
    """Dynamic in name, but a buffer for a batch of one is baked in."""
    nodes = [
        helper.make_node("Gather", ["item_seq", "last"], ["newest"], axis=1),
        helper.make_node("Gather", ["table", "newest"], ["own"], axis=0),
        helper.make_node("Mul", ["seq_len", "zero"], ["zeros"]),
        helper.make_node("Add", ["zeros", "one"], ["ones"]),
        helper.make_node("CumSum", ["ones", "zero"], ["rows"], exclusive=1),
        helper.make_node("Gather", ["buffer", "rows"], ["bias"], axis=0),
        helper.make_node("Add", ["own", "bias"], ["queries"]),
    ]
    constants = {
        "last": LAST,
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "buffer": np.ones((1, 1, 3), np.float32),
        "table": ITEMS,
    }
    return model(nodes, constants)


@pytest.fixture
def package(tmp_path: Path) -> Package:
    onnx.save(last_item(), tmp_path / "my.onnx")
    np.save(tmp_path / "my.npy", ITEMS)
    (tmp_path / "ids.txt").write_text("\n".join(IDS) + "\n")
    return Package(
        name="my",
        encoder=tmp_path / "my.onnx",
        items=tmp_path / "my.npy",
        item_ids=tmp_path / "ids.txt",
        max_seq_len=10,
        padding="left",
        minimum_history=1,
        history_source="session",
    )


def write(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content)
    return folder / name


def test_a_model_of_ones_own_is_packed_and_answers(package: Package, tmp_path: Path) -> None:
    path = pack(package, tmp_path / "artefacts")
    assert check_report(path) == []
    loaded = load(path, intra_op_threads=1, device="cpu")
    queries = loaded.retriever.encode([[1, 4]])
    (best, _) = loaded.topk.search(queries, 6, [np.empty(0, np.int64)])[0]
    assert best.tolist() == (np.argsort(-(ITEMS[1:] @ ITEMS[4])) + 1).tolist()
    assert loaded.artefact.item_ids == ["", *IDS]  # rows keep the user's order
    assert loaded.artefact.manifest.encoder.kind == "custom"
    assert loaded.artefact.manifest.history_source == "session"
    assert loaded.artefact.manifest.evaluation is None


def test_an_inline_table_that_equals_the_items_is_taken_out_of_the_graph(package: Package, tmp_path: Path) -> None:
    path = pack(package, tmp_path / "artefacts")
    assert [(tensor.name, tensor.location) for tensor in external_tensors(path / "encoder.onnx")] == [
        ("table", "items.npy")
    ]


def test_a_table_that_is_not_the_items_stays_in_the_graph(package: Package, tmp_path: Path) -> None:
    onnx.save(last_item(ITEMS * 2), package.encoder)
    path = pack(package, tmp_path / "artefacts")
    assert external_tensors(path / "encoder.onnx") == []


def test_weights_in_a_file_beside_the_users_graph_are_taken_along(package: Package, tmp_path: Path) -> None:
    onnx.save(
        last_item(ITEMS * 2), package.encoder, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    path = pack(package, tmp_path / "artefacts")
    assert external_tensors(path / "encoder.onnx") == []
    assert check_report(path) == []


def test_counts_titles_and_categories_are_aligned_with_the_ids(package: Package, tmp_path: Path) -> None:
    package = replace(
        package,
        popularity=write(tmp_path, "counts.txt", "5\n0\n3\n1\n2\n9\n"),
        titles=write(tmp_path, "titles.txt", "Pear\n\nFig\n\n\nPlum\n"),
        categories=write(tmp_path, "categories.txt", "a\r\nb\r\n\r\nd\r\ne\r\nf\r\n"),
    )
    artefact = load(pack(package, tmp_path / "artefacts"), intra_op_threads=1, device="cpu").artefact
    assert artefact.popularity.tolist() == [0, 5, 0, 3, 1, 2, 9]
    assert artefact.titles == [None, "Pear", None, "Fig", None, None, "Plum"]
    assert artefact.categories == [None, "a", "b", None, "d", "e", "f"]


def test_a_graph_of_one_length_is_packed_as_that_length(package: Package, tmp_path: Path) -> None:
    onnx.save(last_item(item_seq=info("item_seq", TensorProto.INT64, ["n", 4])), package.encoder)
    encoder = load(pack(package, tmp_path / "artefacts"), intra_op_threads=1, device="cpu").artefact.manifest.encoder
    assert (encoder.mode, encoder.fixed_length, encoder.max_seq_len) == ("reference", 4, 4)


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "padding counts": (mean_of_all_columns, "my.onnx: short history of 1: padding on the left changes the queries by"),
    "the batch counts": (mean_of_the_batch, "the other histories of a batch change the queries by"),
    "empty history": (division_by_the_length, "my.onnx: empty history of 0: the queries hold NaN or infinity"),
    "one row only": (one_row_only, "my.onnx: runs one history at a time but not 8"),
    "int32": (
        lambda: last_item(item_seq=info("item_seq", TensorProto.INT32, ["n", "l"])),
        "my.onnx: input 'item_seq' is int32 (n, l), expected int64 (batch, length)",
    ),
    "fixed batch": (
        lambda: last_item(item_seq=info("item_seq", TensorProto.INT64, [1, "l"])),
        "my.onnx: input 'item_seq' is int64 (1, l), expected int64 (batch, length)",
    ),
    "no seq_len": (
        lambda: last_item(seq_len=info("mask", TensorProto.INT64, ["n"])),
        "my.onnx: input 'seq_len' is missing, expected int64 (batch)",
    ),
    "other dim": (
        lambda: last_item(np.zeros((7, 2), np.float32), queries=info("queries", TensorProto.FLOAT, ["n", 1, 2])),
        "my.onnx: output 'queries' is float32 (n, 1, 2), expected float32 (batch, 1, 3)",
    ),
    "table too small": (lambda: last_item(ITEMS[:3]), "my.onnx: exact history of 10: encoder.onnx: run failed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_graph_the_service_could_not_use_is_refused(package: Package, tmp_path: Path, name: str) -> None:
    make, expected = REFUSED[name]
    onnx.save(make(), package.encoder)
    with pytest.raises(PackError) as refusal:
        pack(package, tmp_path / "artefacts")
    assert any(expected in reason for reason in refusal.value.reasons), refusal.value.reasons
    assert not (tmp_path / "artefacts").exists()


def test_every_reason_is_named_at_once(package: Package, tmp_path: Path) -> None:
    onnx.save(last_item(seq_len=info("mask", TensorProto.INT64, ["n", "l"])), package.encoder)
    np.save(package.items, ITEMS[1:])
    package = replace(
        package,
        name="My Model",
        history_events=("play", ""),
        popularity=write(tmp_path, "counts.txt", "5\n0\nmany\n1\n2\n9\n"),
        titles=write(tmp_path, "titles.txt", "Pear\n"),
    )
    with pytest.raises(PackError) as refusal:
        pack(package, tmp_path / "artefacts")
    assert refusal.value.reasons == [
        "artefact name is 'My Model', expected 1 to 64 of a-z 0-9 . _ - with a letter or digit first; see --name",
        "history event is '', expected 1 to 64 characters of [A-Za-z0-9_.:-]; see --history-event",
        "counts.txt: line 3 is 'many', expected a whole number",
        "titles.txt: has 1 lines, expected 6, one per item id",
        "my.npy: has 6 rows, expected 7: row 0 for padding and one for each line of ids.txt",
        "my.onnx: input 'seq_len' is missing, expected int64 (batch)",
        "my.onnx: input 'mask' is one too many",
    ]


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda p: p.encoder.write_bytes(b"nothing"), "my.onnx: is not a valid ONNX file"),
        (lambda p: p.encoder.unlink(), "my.onnx: is not a valid ONNX file"),
        (lambda p: p.items.write_bytes(b"nothing"), "my.npy: is not a readable .npy file"),
        (lambda p: np.save(p.items, ITEMS.astype(np.float64)), "my.npy: is float64 (7, 3), expected float32"),
        (lambda p: np.save(p.items, ITEMS * np.nan), "my.npy: holds NaN or infinity"),
        (lambda p: p.item_ids.write_text(""), "ids.txt: is empty, expected one item id per line"),
        (lambda p: p.item_ids.unlink(), "ids.txt: is not a readable text file"),
        (lambda p: p.item_ids.write_bytes(b"\xff\xfe"), "ids.txt: is not a readable text file"),
        (lambda p: p.item_ids.write_text("a\nb\nc\nd\na\ne"), "ids.txt: item_id 'a' is in row 1 and again in row 5"),
        (lambda p: p.item_ids.write_text("a\n\nc\nd\ne\nf"), "ids.txt: item_id '' in row 2 is not 1 to 128"),
    ],
)
def test_a_file_that_does_not_fit_is_named(
    package: Package, tmp_path: Path, spoil: Callable[[Package], object], expected: str
) -> None:
    spoil(package)
    with pytest.raises(PackError) as refusal:
        pack(package, tmp_path / "artefacts")
    assert any(reason.startswith(expected) for reason in refusal.value.reasons), refusal.value.reasons
