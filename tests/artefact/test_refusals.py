"""A corpus of spoilt artefacts. Each is refused, at load and by the check, with the file and the reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.items_file import external_table
from service.artefact.check import check_report
from service.errors import ArtefactRefused
from service.inference import retriever
from service.inference.loader import load

# The `workshop` fixture; its class lives in conftest.py, which is not importable.
Workshop = Any
Spoil = Callable[[Workshop], object]

FILES = ("encoder.onnx", "golden.npz", "items.npy", "items.parquet")


# --- bytes that are not the exported ones -----------------------------------------------------------------------------


def damaged() -> dict[str, tuple[Spoil, str]]:
    corpus: dict[str, tuple[Spoil, str]] = {}
    for name in FILES:
        for position in (0.0, 0.5, 1.0):
            corpus[f"bit {position} of {name}"] = (flip(name, position), f"{name}: sha256 is ")
        corpus |= {
            f"{name} truncated": (truncate(name), f"{name}: is "),
            f"{name} empty": (empty(name), f"{name}: is 0 bytes, the manifest says "),
            f"{name} missing": (remove(name), f"{name}: is missing, the manifest lists it"),
            f"{name} a link": (link(name), f"{name}: is a symbolic link"),
            f"{name} of wrong digest": (wrong_digest(name), f"{name}: sha256 is "),
        }
    for position in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
        corpus[f"bit {position} of manifest.json"] = (flip("manifest.json", position), "manifest")
    return corpus | {
        "manifest truncated": (truncate("manifest.json"), "manifest.json: is not JSON"),
        "manifest missing": (remove("manifest.json"), "manifest.json: is missing"),
        "manifest a link": (link("manifest.json"), "manifest.json: is a symbolic link"),
        "manifest a list": (lambda w: w.file("manifest.json").write_text("[]"), "manifest.json: holds a JSON list"),
        "manifest huge": (
            lambda w: w.file("manifest.json").write_bytes(b" " * (16 * 1024 * 1024 + 1)),
            "manifest.json: is 16777217 bytes, expected at most 16777216",
        ),
        "extra file": (lambda w: w.file("notes.txt").touch(), "notes.txt: is not listed in the manifest"),
        "subfolder": (lambda w: w.file("more").mkdir(), "more: is not a plain file"),
    }


def flip(name: str, position: float) -> Spoil:
    return lambda w: w.flip_bit(name, position)


def truncate(name: str) -> Spoil:
    return lambda w: w.truncate(name)


def empty(name: str) -> Spoil:
    return lambda w: w.file(name).write_bytes(b"")


def remove(name: str) -> Spoil:
    return lambda w: w.file(name).unlink()


def wrong_digest(name: str) -> Spoil:
    return lambda w: w.sign(lambda body: body["files"][name].update(sha256="0" * 64))


def link(name: str) -> Spoil:
    def spoil(w: Workshop) -> None:
        shutil.move(w.file(name), w.path.parent / name)
        w.file(name).symlink_to(w.path.parent / name)

    return spoil


# --- a manifest that says something else ------------------------------------------------------------------------------


def contradicting() -> dict[str, tuple[Spoil, str]]:
    def signed(change: Callable[[dict[str, Any]], object]) -> Spoil:
        return lambda w: w.sign(change)

    def unsigned(change: Callable[[dict[str, Any]], object]) -> Spoil:
        def spoil(w: Workshop) -> None:
            body = w.manifest()
            change(body)
            w.write_manifest(body)

        return spoil

    return {
        "schema 2": (
            unsigned(lambda body: body.update(schema_version=2)),
            "manifest.json: schema_version is 2, this service reads 1",
        ),
        "no schema": (unsigned(lambda body: body.pop("schema_version")), "manifest.json: schema_version is None"),
        "unknown key": (unsigned(lambda body: body.update(surprise=1)), "manifest.json: surprise: Extra inputs"),
        "missing key": (unsigned(lambda body: body.pop("encoder")), "manifest.json: encoder: Field required"),
        "edited": (unsigned(lambda body: body.update(seed=8)), "manifest.json: version is "),
        "other folder": (lambda w: rename(w, w.path.with_name("latest")), "the folder is called latest"),
        "other name": (
            signed(lambda body: body.update(name="llm-esr")),
            "name is llm-esr, the folder lies in topk_only",
        ),
        "path as file": (
            unsigned(lambda body: body["files"].update({"../x": body["files"]["items.npy"]})),
            "manifest.json: files.../x.[key]: String should match pattern",
        ),
        "absolute table": (
            unsigned(lambda body: body["item_tables"]["items"].update(file="/etc/passwd")),
            "manifest.json: item_tables.items.file: String should match pattern",
        ),
        "no items.parquet": (
            signed(lambda body: body["files"].pop("items.parquet")),
            "manifest.json: files does not list items.parquet",
        ),
        "no item table": (signed(lambda body: body["item_tables"].clear()), "item_tables has no entry 'items'"),
        "unlisted table": (
            signed(
                lambda body: body["item_tables"].update(
                    extra={"file": "extra.npy", "dtype": "float32", "shape": [13, 2], "meaning": "none"}
                )
            ),
            "manifest.json: item_tables.extra names extra.npy, which files does not list",
        ),
        "n_items": (
            signed(lambda body: body.update(n_items=13)),
            "manifest.json: item_tables.items is items.npy float32 [13, 16], n_items and encoder.dim say",
        ),
        "dim": (
            signed(lambda body: body["encoder"].update(dim=8)),
            "n_items and encoder.dim say items.npy float32 [13, 8]",
        ),
        "inputs": (signed(lambda body: body["inputs"].pop()), "manifest.json: inputs are "),
        "outputs": (signed(lambda body: body["outputs"][0].update(name="q")), "manifest.json: output queries is None"),
        "intents of another width": (
            signed(
                lambda body: body["outputs"].append({"name": "intents", "dtype": "float32", "shape": ["batch", 2, 8]})
            ),
            "manifest.json: output intents is ('float32', ['batch', 2, 8]), expected ('float32', ['batch', 2, 16])",
        ),
        "intents without a table": (
            signed(
                lambda body: body["outputs"].append({"name": "intents", "dtype": "float32", "shape": ["batch", 2, 16]})
            ),
            "manifest.json: output and item table 'intents' come together",
        ),
        "intent table of another width": (
            signed(lambda body: body["item_tables"].update(intents={**body["item_tables"]["items"], "shape": [13, 8]})),
            "manifest.json: item_tables.intents is float32 [13, 8], n_items and encoder.dim say float32 [13, 16]",
        ),
        "fixed length in clean mode": (
            signed(lambda body: body["encoder"].update(fixed_length=50)),
            "manifest.json: encoder.fixed_length is 50 in clean mode",
        ),
    }


def rename(w: Workshop, path: Any) -> None:
    w.path.rename(path)
    w.path = path


# --- files that are signed and wrong ----------------------------------------------------------------------------------


def table(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    def spoil(w: Workshop) -> None:
        np.save(w.file("items.npy"), change(np.load(w.file("items.npy"))))
        w.sign()

    return spoil


def with_value(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(items: np.ndarray) -> np.ndarray:
        items[7, 3] = value
        return items

    return change


def raw(name: str, content: bytes) -> Spoil:
    def spoil(w: Workshop) -> None:
        w.file(name).write_bytes(content)
        w.sign()

    return spoil


def appended(name: str) -> Spoil:
    def spoil(w: Workshop) -> None:
        w.file(name).write_bytes(w.file(name).read_bytes() + b"\0\0\0\0")
        w.sign()

    return spoil


def catalogue(change: Callable[[pa.Table], pa.Table]) -> Spoil:
    def spoil(w: Workshop) -> None:
        pq.write_table(change(pq.read_table(w.file("items.parquet"))), w.file("items.parquet"))
        w.sign()

    return spoil


def with_ids(first: str, second: str) -> Callable[[pa.Table], pa.Table]:
    def change(found: pa.Table) -> pa.Table:
        ids = [first, second, *found["item_id"].to_pylist()[2:]]
        return found.set_column(0, found.schema.field(0), pa.array(ids))

    return change


def with_column(name: str, values: list[Any], dtype: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    return lambda found: found.set_column(
        found.column_names.index(name), pa.field(name, dtype), pa.array(values, dtype)
    )


def unsorted_with_evaluation(w: Workshop) -> None:
    found = pq.read_table(w.file("items.parquet"))
    pq.write_table(with_ids("i-02", "i-01")(found), w.file("items.parquet"))
    policy = {"split": "leave_one_out", "seen_filtered": True, "repeats": "miss", "history_length": 50}
    w.sign(lambda body: body.update(evaluation={**policy, "dropped_targets": {}, "tie_rule": "lowest item_id"}))


def inconsistent() -> dict[str, tuple[Spoil, str]]:
    return {
        "NaN": (table(with_value(np.nan)), "items.npy: row 7 holds NaN or infinity"),
        "infinity": (table(with_value(-np.inf)), "items.npy: row 7 holds NaN or infinity"),
        "float64": (table(lambda items: items.astype(np.float64)), "items.npy: dtype is float64, the manifest says"),
        "big-endian": (table(lambda items: items.astype(">f4")), "items.npy: dtype is >f4, the manifest says float32"),
        "one row short": (table(lambda items: items[:-1]), "items.npy: shape is [12, 16], the manifest says [13, 16]"),
        "other dim": (table(lambda items: items[:, :8]), "items.npy: shape is [13, 8], the manifest says [13, 16]"),
        "Fortran order": (table(np.asfortranarray), "items.npy: is in Fortran order"),
        "pickled table": (
            table(lambda items: items.astype(object)),
            "items.npy: dtype is object, the manifest says float32",
        ),
        "not npy": (raw("items.npy", b"PK\x03\x04 not an array"), "items.npy: is not a readable .npy file"),
        "bytes after the table": (
            appended("items.npy"),
            "items.npy: holds 836 bytes of data, its header announces 832",
        ),
        "id twice": (
            catalogue(with_ids("i-03", "i-02")),
            "items.parquet: item_id 'i-03' is in row 1 and again in row 3",
        ),
        "id with a space": (
            catalogue(with_ids("i 1", "i-02")),
            "items.parquet: item_id 'i 1' in row 1 is not 1 to 128",
        ),
        "id with a newline": (
            catalogue(with_ids("i-01", "i-02\n")),
            r"items.parquet: item_id 'i-02\n' in row 2 is not",
        ),
        "two bad ids": (
            catalogue(with_ids("", "é")),
            "items.parquet: item_id '' in row 1 is not 1 to 128 characters of [A-Za-z0-9_.:@-] (and 1 more)",
        ),
        "long id": (catalogue(with_ids("i" * 129, "i-02")), "in row 1 is not 1 to 128 characters"),
        "one item short": (
            catalogue(lambda found: found.slice(1)),
            "items.parquet: has 11 rows, the manifest says n_items",
        ),
        "column missing": (
            catalogue(lambda found: found.drop_columns(["title"])),
            "items.parquet: columns are item_id",
        ),
        "column of another type": (
            catalogue(with_column("popularity", [1.5] * 12, pa.float64())),
            "items.parquet: columns are item_id string, title string, category string, popularity double",
        ),
        "null availability": (
            catalogue(with_column("available", [None] + [True] * 11, pa.bool_())),
            "items.parquet: column available holds 1 nulls",
        ),
        "negative count": (
            catalogue(with_column("popularity", [0, -3, *range(10)], pa.int64())),
            "items.parquet: popularity in row 2 is -3, expected at least 0",
        ),
        "not parquet": (raw("items.parquet", b"item_id,title\n"), "items.parquet: is not a readable Parquet file"),
        "rows out of order": (unsorted_with_evaluation, "items.parquet: rows are not in ascending item_id order"),
    }


# --- graphs that are signed and wrong ---------------------------------------------------------------------------------


def info(name: str, dtype: int, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def encoder(
    *,
    item_seq: onnx.ValueInfoProto | None = None,
    seq_len: onnx.ValueInfoProto | None = None,
    queries: onnx.ValueInfoProto | None = None,
    table: TensorProto | None = None,
    nodes: list[onnx.NodeProto] | None = None,
    extra_input: bool = False,
) -> bytes:
    """The last-item encoder of the pristine artefact with one thing changed."""
    gather = [
        helper.make_node("Gather", ["item_seq", "last"], ["newest"], axis=1),
        helper.make_node("Gather", ["items", "newest"], ["queries"], axis=0),
    ]
    inputs = [
        item_seq or info("item_seq", TensorProto.INT64, ["batch", "length"]),
        seq_len or info("seq_len", TensorProto.INT64, ["batch"]),
        *([info("user_z", TensorProto.FLOAT, ["batch", 4])] if extra_input else []),
    ]
    outputs = [queries or info("queries", TensorProto.FLOAT, ["batch", 1, 16])]
    last = numpy_helper.from_array(np.array([-1], np.int64), "last")
    constants = [last, external_table("items", (13, 16)) if table is None else table]
    graph = helper.make_graph(gather if nodes is None else nodes, "encoder", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def points_to(location: str, **numbers: int) -> bytes:
    tensor = external_table("items", (13, 16))
    content = {entry.key: entry.value for entry in tensor.external_data}
    del tensor.external_data[:]
    for key, value in {**content, "location": location, **numbers}.items():
        tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=str(value)))
    return encoder(table=tensor)


def hidden_in_a_subgraph(location: str) -> bytes:
    secret = TensorProto(name="secret", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    secret.external_data.append(onnx.StringStringEntryProto(key="location", value=location))
    branch = helper.make_graph([], "branch", [], [info("secret", TensorProto.FLOAT, [1])], [secret])
    return encoder(nodes=[helper.make_node("If", ["c"], ["queries"], then_branch=branch, else_branch=branch)])


def rank_two(dtype: int = TensorProto.FLOAT) -> bytes:
    nodes = [
        helper.make_node("Gather", ["item_seq", "last"], ["newest"], axis=1),
        helper.make_node("Gather", ["items", "newest"], ["wide"], axis=0),
        helper.make_node("Squeeze", ["wide", "one"], ["narrow"]),
        helper.make_node("Cast", ["narrow"], ["queries"], to=dtype),
        helper.make_node("Constant", [], ["one"], value=numpy_helper.from_array(np.array([1], np.int64))),
    ]
    return encoder(nodes=[nodes[-1], *nodes[:-1]], queries=info("queries", dtype, ["batch", 16]))


def graphs() -> dict[str, tuple[Spoil, str]]:
    external = "encoder.onnx: external data of tensor 'items' is at "
    corpus = {
        "data in the parent": (points_to("../items.npy"), external + "'../items.npy', expected the name of a file"),
        "data at an absolute path": (points_to("/etc/passwd"), external + "'/etc/passwd', expected the name of a file"),
        "data behind a dot": (points_to("./items.npy"), external + "'./items.npy', expected the name of a file"),
        "data in memory": (points_to("*/_ORT_MEM_ADDR_/*"), external + "'*/_ORT_MEM_ADDR_/*', expected the name"),
        "data in no file": (points_to("weights.bin"), external + "'weights.bin', which the manifest does not list"),
        "data past the end": (points_to("items.npy", offset=192), "the file has 960"),
        "data that is not the table": (points_to("items.npy", offset=64), "the table is bytes 128 to 960"),
        "data in the manifest": (points_to("manifest.json"), "'manifest.json', which the manifest does not list"),
        "data hidden in a subgraph": (
            hidden_in_a_subgraph("../../secret"),
            "encoder.onnx: external data of tensor 'secret' is at '../../secret'",
        ),
        "not ONNX": (b"\x7fELF", "encoder.onnx: is not a readable ONNX file"),
        "empty ONNX": (b"", "encoder.onnx: ONNX Runtime cannot load it"),
        "unknown operator": (
            encoder(nodes=[helper.make_node("Evil", ["item_seq"], ["queries"], domain="evil")]),
            "encoder.onnx: ONNX Runtime cannot load it",
        ),
        "input of another type": (
            encoder(item_seq=info("item_seq", TensorProto.INT32, ["batch", "length"])),
            "encoder.onnx: input 'item_seq' is int32 (batch, length), expected int64 (batch, length)",
        ),
        "fixed batch": (
            encoder(item_seq=info("item_seq", TensorProto.INT64, [2, "length"])),
            "encoder.onnx: input 'item_seq' is int64 (2, length), expected int64 (batch, length)",
        ),
        "fixed length": (
            encoder(item_seq=info("item_seq", TensorProto.INT64, ["batch", 50])),
            "encoder.onnx: input 'item_seq' is int64 (batch, 50), expected int64 (batch, length)",
        ),
        "input of another name": (
            encoder(seq_len=info("lengths", TensorProto.INT64, ["batch"])),
            "encoder.onnx: input 'seq_len' is missing, expected int64 (batch)",
        ),
        "one input more": (encoder(extra_input=True), "encoder.onnx: input 'user_z' is one too many"),
        "output of another rank": (
            rank_two(),
            "encoder.onnx: output 'queries' is float32 (batch, 16), expected float32 (batch, 1, 16)",
        ),
        "output of another type": (
            rank_two(TensorProto.DOUBLE),
            "encoder.onnx: output 'queries' is float64 (batch, 16)",
        ),
    }
    return {name: (raw("encoder.onnx", content), message) for name, (content, message) in corpus.items()}


# --- golden answers that are not the model's --------------------------------------------------------------------------


def golden(**changes: Callable[[np.ndarray], Any]) -> Spoil:
    def spoil(w: Workshop) -> None:
        w.edit_golden(**{name: change(w.golden(name)) for name, change in changes.items()})
        w.sign()

    return spoil


def put(index: Any, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[index] = value
        return array

    return change


def golden_without(name: str) -> Spoil:
    def spoil(w: Workshop) -> None:
        with np.load(w.file("golden.npz")) as found:
            content = {key: found[key] for key in found.files if key != name}
        np.savez(w.file("golden.npz"), **content)
        w.sign()

    return spoil


def other_weights(w: Workshop) -> None:
    items = np.load(w.file("items.npy"))
    items[1:] = items[:0:-1]
    np.save(w.file("items.npy"), items)
    w.sign()


def goldens() -> dict[str, tuple[Spoil, str]]:
    short = "golden.npz: case 'short' (history of 1), run in a batch: "
    return {
        "other queries": (golden(queries=lambda q: q + np.float32(0.5)), short + "queries are off by 0.5, tolerance"),
        "other order": (golden(top_items=lambda top: top[:, ::-1]), "golden.npz: case 'short'"),
        "other scores": (golden(top_scores=lambda top: top * np.float32(1.01)), short + "item "),
        "NaN scores": (golden(top_scores=put((1, 0), np.nan)), short + "item "),
        "unavailable item expected": (golden(top_items=put((1, 0), 12)), short + "item 12 is expected with score"),
        "one item fewer": (golden(top_items=put((1, 10), 0)), short + "11 items came back, expected 10"),
        "other model": (other_weights, "golden.npz: case 'exact' (history of 50), run alone: queries are off by"),
        "case missing": (
            golden(case=lambda case: np.where(case == "empty", "short", case)),
            "golden.npz: cases are ['exact', 'over-long', 'short'], the manifest says",
        ),
        "array missing": (golden_without("queries"), "golden.npz: array queries is missing"),
        "array of another type": (
            golden(queries=lambda q: q.astype(np.float64)),
            "golden.npz: queries is float64",
        ),
        "history cut wrong": (
            golden(history_offsets=put(1, -1)),
            "golden.npz: history_offsets do not cut history_items into",
        ),
        "history of foreign items": (
            golden(history_items=put(0, 13)),
            "golden.npz: history holds item index 13, expected 1..12",
        ),
        "history of negative items": (golden(history_items=put(0, -1)), "golden.npz: history holds item index -1"),
        "not npz": (raw("golden.npz", b"nothing"), "golden.npz: is not a readable .npz file"),
        "pickled": (golden(case=lambda case: case.astype(object)), "golden.npz: is not a readable .npz file"),
    }


CORPUS = {**damaged(), **contradicting(), **inconsistent(), **graphs(), **goldens()}


@pytest.mark.parametrize("name", CORPUS)
def test_a_spoilt_artefact_is_refused_with_file_and_reason(workshop: Workshop, name: str) -> None:
    spoil, expected = CORPUS[name]
    spoil(workshop)
    with pytest.raises(ArtefactRefused) as refusal:
        load(workshop.path, intra_op_threads=1, device="cpu")
    assert any(expected in reason for reason in refusal.value.reasons), refusal.value.reasons
    report = check_report(workshop.path)
    assert set(refusal.value.reasons) <= set(report)


def test_an_artefact_signed_again_without_a_change_is_accepted(workshop: Workshop) -> None:
    workshop.sign()
    assert check_report(workshop.path) == []


@pytest.mark.parametrize("name", ["encoder.onnx", "items.npy"])
def test_a_graph_is_not_opened_before_its_bytes_are_verified(
    workshop: Workshop, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*args: object, **kwargs: object) -> None:
        raise AssertionError("ONNX Runtime was asked to open an unverified file")

    monkeypatch.setattr(retriever, "make_session", opened)
    monkeypatch.setattr("service.artefact.check.make_session", opened)
    workshop.flip_bit(name)
    assert any(reason.startswith(f"{name}: sha256 is ") for reason in check_report(workshop.path))


def test_the_check_names_every_reason_at_once(workshop: Workshop) -> None:
    raw("encoder.onnx", encoder(item_seq=info("item_seq", TensorProto.INT32, ["batch", "length"])))(workshop)
    catalogue(with_ids("i 1", "i-02"))(workshop)
    workshop.flip_bit("golden.npz")
    workshop.file("notes.txt").touch()
    reasons = check_report(workshop.path)
    assert [reason.split(":")[0] for reason in reasons] == ["golden.npz", "notes.txt", "items.parquet", "encoder.onnx"]
