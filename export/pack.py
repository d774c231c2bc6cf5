"""A model of the user's own, an ONNX encoder and its item vectors, becomes an artefact: checked, or refused in full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from export.artefact import Draft, naming_faults, retriever_tensors, write_artefact
from export.errors import PackError
from export.items_file import external_table
from service.artefact.files import ENCODER
from service.artefact.manifest import HISTORY_EVENTS, EncoderSpec, HistorySource
from service.artefact.tables import Catalogue
from service.errors import AfterglowError, ArtefactError
from service.features.sequence import Padding, encode_sequences
from service.inference.golden import golden_histories
from service.inference.retriever import graph_faults, run_encoder
from service.inference.runtime import make_session

# How far queries may move, relative to their size, when a history stands in a batch or gets padding.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Package:
    """What the user brings. Text files have one line per item, in the order of rows 1..n_items of `items`."""

    name: str
    encoder: Path
    items: Path
    item_ids: Path
    max_seq_len: int
    padding: Padding
    minimum_history: int
    history_source: HistorySource
    history_events: tuple[str, ...] = HISTORY_EVENTS
    popularity: Path | None = None
    titles: Path | None = None
    categories: Path | None = None


def pack(package: Package, root: Path, on_step: Callable[[str], None] = lambda message: None) -> Path:
    """Folder of the new artefact.

    An initializer of the graph that equals the item vectors is replaced by items.npy itself, so that there is one
    copy of it; everything else stays as it is. Rows keep the user's order, and ties go to the earlier row.

    Raises:
        PackError: every reason why the service would refuse it.
    """
    on_step("checking the encoder and the items")
    reasons = naming_faults(package.name, package.history_events)
    items = _read_items(package.items, reasons)
    catalogue = _read_catalogue(package, reasons)
    if items is not None and catalogue is not None and len(items) != len(catalogue.item_ids) + 1:
        reasons.append(
            f"{package.items.name}: has {len(items)} rows, expected {len(catalogue.item_ids) + 1}: "
            f"row 0 for padding and one for each line of {package.item_ids.name}"
        )
    model = _read_model(package.encoder, reasons)
    session = _open(package.encoder, reasons) if model is not None else None
    encoder = _encoder_spec(package, session, items, reasons) if session is not None else None
    if session is not None and encoder is not None and items is not None and not reasons:
        reasons += _behaviour_faults(package.encoder.name, session, encoder, len(items) - 1)
    if reasons or items is None or catalogue is None or model is None or session is None or encoder is None:
        raise PackError(reasons)

    _share_table(model, items)
    draft = Draft(
        name=package.name,
        paper=None,
        encoder=encoder,
        items=items,
        catalogue=catalogue,
        write_encoder=lambda folder: onnx.save(model, folder / ENCODER),
        history_source=package.history_source,
        history_events=package.history_events,
        reference=lambda histories: run_encoder(session, encoder, len(items) - 1, histories),
    )
    return write_artefact(draft, root, on_step)


def _read_items(path: Path, reasons: list[str]) -> NDArray[np.float32] | None:
    try:
        items = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reasons.append(f"{path.name}: is not a readable .npy file ({error})")
        return None
    if items.dtype != np.float32 or items.ndim != 2:
        reasons.append(f"{path.name}: is {items.dtype} {items.shape}, expected float32 (n_items + 1, dim)")
        return None
    if not np.isfinite(items).all():
        reasons.append(f"{path.name}: holds NaN or infinity")
        return None
    return np.ascontiguousarray(items)


def _read_catalogue(package: Package, reasons: list[str]) -> Catalogue | None:
    item_ids = _read_lines(package.item_ids, None, reasons)
    if item_ids is None:
        return None
    if not item_ids:
        reasons.append(f"{package.item_ids.name}: is empty, expected one item id per line")
        return None
    n_items = len(item_ids)
    counts = _read_lines(package.popularity, n_items, reasons) or ["0"] * n_items
    wrong = [line for line, count in enumerate(counts, 1) if not (count.isascii() and count.isdigit())]
    if wrong and package.popularity is not None:
        reasons.append(
            f"{package.popularity.name}: line {wrong[0]} is {counts[wrong[0] - 1]!r}, expected a whole number"
        )
        counts = ["0"] * n_items
    titles = _read_lines(package.titles, n_items, reasons) or [""] * n_items
    categories = _read_lines(package.categories, n_items, reasons) or [""] * n_items
    catalogue = Catalogue(
        item_ids=item_ids,
        titles=[title or None for title in titles],
        categories=[category or None for category in categories],
        popularity=np.array([int(count) for count in counts], np.int64),
        available=np.ones(n_items, np.bool_),
    )
    faults = catalogue.faults()
    reasons += [f"{package.item_ids.name}: {fault}" for fault in faults]
    return None if faults else catalogue


def _read_lines(path: Path | None, expected: int | None, reasons: list[str]) -> list[str] | None:
    """The lines of a text file; None when there is no file to read or it has another number of lines."""
    if path is None:
        return None
    try:
        lines = [line.rstrip("\r") for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        reasons.append(f"{path.name}: is not a readable text file ({error})")
        return None
    lines = [] if lines == [""] else lines
    if expected is not None and len(lines) != expected:
        reasons.append(f"{path.name}: has {len(lines)} lines, expected {expected}, one per item id")
        return None
    return lines


def _read_model(path: Path, reasons: list[str]) -> onnx.ModelProto | None:
    """The model with all its weights inside, wherever they lay."""
    try:
        onnx.checker.check_model(str(path))
        return onnx.load(path)
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        reasons.append(f"{path.name}: is not a valid ONNX file ({str(error).splitlines()[0]})")
        return None


def _open(path: Path, reasons: list[str]) -> Any | None:
    try:
        return make_session(path, "cpu", intra_op_threads=1)
    except ArtefactError as error:
        reasons.append(str(error))
        return None


def _encoder_spec(
    package: Package, session: Any, items: NDArray[np.float32] | None, reasons: list[str]
) -> EncoderSpec | None:
    """How the service will call the graph, or None and why it cannot."""
    shapes = {tensor.name: tensor.shape for tensor in (*session.get_inputs(), *session.get_outputs())}
    queries, item_seq = shapes.get("queries", []), shapes.get("item_seq", [])
    n_queries = queries[1] if len(queries) == 3 and isinstance(queries[1], int) else 1
    own_dim = queries[2] if len(queries) == 3 and isinstance(queries[2], int) else 1
    # A graph of one length only is the contract's `reference` mode: every history is padded to that length.
    fixed = item_seq[1] if len(item_seq) == 2 and isinstance(item_seq[1], int) else None
    encoder = EncoderSpec(
        kind="custom",
        padding=package.padding,
        mode="clean" if fixed is None else "reference",
        max_seq_len=fixed or package.max_seq_len,
        fixed_length=fixed,
        dim=own_dim if items is None else items.shape[1],
        n_queries=n_queries,
        minimum_history=package.minimum_history,
    )
    faults = graph_faults(session, *retriever_tensors(encoder))
    reasons += [fault.replace(ENCODER, package.encoder.name, 1) for fault in faults]
    return None if faults else encoder


def _behaviour_faults(name: str, session: Any, encoder: EncoderSpec, n_items: int) -> list[str]:
    """What goes wrong when the graph runs on empty, short, exact and over-long histories."""
    cases, histories = golden_histories(encoder.max_seq_len, n_items)
    alone, faults = [], []
    for case, history in zip(cases, histories, strict=True):
        where = f"{name}: {case} history of {len(history)}"
        try:
            queries = run_encoder(session, encoder, n_items, [history])
        except AfterglowError as error:
            faults.append(f"{where}: {error}")
            continue
        if not np.isfinite(queries).all():
            faults.append(f"{where}: the queries hold NaN or infinity")
        alone.append(queries[0])
    if faults:
        return faults
    try:
        together = run_encoder(session, encoder, n_items, histories)
        padded = _padded(session, encoder, histories)
    except Exception as error:  # ONNX Runtime's exceptions share no base class below Exception
        return [f"{name}: runs one history at a time but not {len(histories)} ({str(error).splitlines()[0]})"]
    for case, history, expected, batched, filled in zip(cases, histories, alone, together, padded, strict=True):
        scale = float(np.sqrt(np.square(expected, dtype=np.float64).mean()))
        where = f"{name}: {case} history of {len(history)}"
        for gap, what in (
            (np.abs(filled - expected).max(), f"padding on the {encoder.padding} changes the queries"),
            (np.abs(batched - expected).max(), "the other histories of a batch change the queries"),
        ):
            if not gap <= _TOLERANCE * scale:
                faults.append(f"{where}: {what} by {gap:.3g}; use seq_len (or item_seq > 0) to leave padding out")
                break
    return faults


def _padded(session: Any, encoder: EncoderSpec, histories: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
    """Queries of each history alone, filled up to max_seq_len."""
    queries = []
    for history in histories:
        features = encode_sequences([history], encoder.max_seq_len, padding=encoder.padding, length=encoder.max_seq_len)
        queries.append(session.run(["queries"], features._asdict())[0][0])
    return queries


def _share_table(model: onnx.ModelProto, items: NDArray[np.float32]) -> None:
    """Point every initializer that equals the item vectors at items.npy."""
    for initializer in model.graph.initializer:
        if initializer.data_type != TensorProto.FLOAT or tuple(initializer.dims) != items.shape:
            continue
        if np.array_equal(numpy_helper.to_array(initializer), items):
            initializer.CopyFrom(external_table(initializer.name, items.shape))
