"""Writes an artefact directory: all of it, checked as the service would, or nothing."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import JsonValue

from export.errors import ExportError
from export.items_file import INTENT_ITEMS
from service.artefact.check import check_report
from service.artefact.files import CATALOGUE, ENCODER, ITEMS, MANIFEST, digest
from service.artefact.manifest import (
    EVENT_PATTERN,
    HISTORY_EVENTS,
    NAME_PATTERN,
    EncoderSpec,
    Evaluation,
    GoldenSpec,
    HistorySource,
    ItemTableSpec,
    Manifest,
    PhrasesSpec,
    TensorSpec,
    version_of,
)
from service.artefact.phrases import InterestPhrases, write_phrases
from service.artefact.tables import Catalogue
from service.errors import ArtefactRefused
from service.inference.golden import Encode, golden_histories, make_golden, write_golden
from service.inference.retriever import run_encoder
from service.inference.runtime import make_session
from service.inference.topk import ExactTopK


@dataclass(frozen=True)
class Draft:
    """What becomes an artefact.

    Args:
        items: float32 (n_items + 1, dim), row 0 padding, rows aligned with `catalogue`.
        write_encoder: writes encoder.onnx into a folder that already holds items.npy.
        reference: queries of item indices by the original model; the golden answers then hold the exported graph to
            it. Without one they are the graph's own.
        has_attention: the graph also gives `attention` (batch, n_queries, length).
        intents: float32 (n_items + 1, dim), each item as an intent; the graph also gives `intents` (batch, 2, dim).
        phrases: texts that name interests, and where they lie among the items.
        replaces: when the version was made that this one is an extension of; the new one sorts after it.
    """

    name: str
    paper: str | None
    encoder: EncoderSpec
    items: NDArray[np.float32]
    catalogue: Catalogue
    write_encoder: Callable[[Path], None]
    dataset: dict[str, JsonValue] = field(default_factory=dict)
    seed: int | None = None
    config: dict[str, JsonValue] = field(default_factory=dict)
    knowledge: dict[str, JsonValue] | None = None
    history_source: HistorySource = "user+session"
    history_events: tuple[str, ...] = HISTORY_EVENTS
    metrics: dict[str, JsonValue] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    reference: Encode | None = None
    replaces: datetime | None = None
    has_attention: bool = False
    phrases: InterestPhrases | None = None
    intents: NDArray[np.float32] | None = None


def write_artefact(draft: Draft, root: Path, on_step: Callable[[str], None] = lambda message: None) -> Path:
    """The new folder `root/<name>/<version>`, on disk and accepted by the service's own check.

    Everything is written to a temporary folder below `root` and renamed; a failure or Ctrl-C leaves nothing.

    Args:
        on_step: called with what begins now.

    Raises:
        ExportError: the name, or that of an event, is not one an artefact can have.
        ArtefactRefused: the service would refuse the result; every reason is in it.
    """
    faults = naming_faults(draft.name, draft.history_events)
    if faults:
        raise ExportError("; ".join(faults))
    on_step("writing the item table")
    root.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=root))
    try:
        folder = temporary / "content"
        folder.mkdir()
        np.save(folder / ITEMS, np.ascontiguousarray(draft.items, dtype=np.float32))
        if draft.intents is not None:
            np.save(folder / INTENT_ITEMS, np.ascontiguousarray(draft.intents, dtype=np.float32))
        pq.write_table(draft.catalogue.to_table(), folder / CATALOGUE)
        draft.write_encoder(folder)
        phrases = None if draft.phrases is None else write_phrases(folder, draft.phrases)
        golden = _write_golden(draft, folder)
        manifest = _manifest(draft, folder, golden, phrases)
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")

        on_step("checking as the service would")
        # The folder carries its final names while it is checked: they are part of the check.
        staged = temporary / draft.name / manifest.version
        staged.parent.mkdir()
        folder.rename(staged)
        reasons = check_report(staged)
        if reasons:
            raise ArtefactRefused(f"{draft.name}/{manifest.version}", reasons)
        return publish(staged, root / draft.name / manifest.version)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def naming_faults(name: str, history_events: Sequence[str]) -> list[str]:
    """One sentence for each name that an artefact cannot have, its own or that of an event."""
    faults = [
        f"history event is {event!r}, expected 1 to 64 characters of [A-Za-z0-9_.:-]; see --history-event"
        for event in history_events
        if not re.fullmatch(EVENT_PATTERN, event)
    ]
    if not re.fullmatch(NAME_PATTERN, name):
        expected = "expected 1 to 64 of a-z 0-9 . _ - with a letter or digit first; see --name"
        faults.insert(0, f"artefact name is {name!r}, {expected}")
    return faults


def retriever_tensors(
    encoder: EncoderSpec, *, has_attention: bool = False, has_intents: bool = False
) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Inputs and outputs every retriever's graph has, and attention or intents where the model gives them."""
    length: int | str = encoder.fixed_length or "length"
    inputs = [
        TensorSpec(name="item_seq", dtype="int64", shape=["batch", length]),
        TensorSpec(name="seq_len", dtype="int64", shape=["batch"]),
    ]
    outputs = [TensorSpec(name="queries", dtype="float32", shape=["batch", encoder.n_queries, encoder.dim])]
    if has_attention:
        outputs.append(TensorSpec(name="attention", dtype="float32", shape=["batch", encoder.n_queries, length]))
    if has_intents:
        outputs.append(TensorSpec(name="intents", dtype="float32", shape=["batch", 2, encoder.dim]))
    return inputs, outputs


def _write_golden(draft: Draft, folder: Path) -> GoldenSpec:
    n_items = len(draft.items) - 1
    session = make_session(folder / ENCODER, "cpu", intra_op_threads=1)
    encode = draft.reference or (lambda histories: run_encoder(session, draft.encoder, n_items, histories))
    cases, histories = golden_histories(draft.encoder.max_seq_len, n_items)
    spec = GoldenSpec(cases=list(dict.fromkeys(cases)))
    available = np.concatenate([[False], draft.catalogue.available])
    topk = ExactTopK(draft.items, available)
    write_golden(folder / spec.file, make_golden(cases, histories, encode, topk, draft.items, spec.k))
    return spec


def _manifest(draft: Draft, folder: Path, golden: GoldenSpec, phrases: PhrasesSpec | None) -> Manifest:
    created_at = datetime.now(UTC).replace(microsecond=0)
    if draft.replaces is not None:  # within the same second, the order of versions would be that of their digests
        created_at = max(created_at, draft.replaces + timedelta(seconds=1))
    inputs, outputs = retriever_tensors(
        draft.encoder, has_attention=draft.has_attention, has_intents=draft.intents is not None
    )
    tables = {
        "items": ItemTableSpec(
            file=ITEMS,
            dtype="float32",
            shape=list(draft.items.shape),
            meaning="item vectors: score = max over queries of <query, row>; the encoder's look-up table",
        )
    }
    if draft.intents is not None:
        tables["intents"] = ItemTableSpec(
            file=INTENT_ITEMS,
            dtype="float32",
            shape=list(draft.intents.shape),
            meaning="items as intents: an intent is known by the items whose rows are nearest to it by cosine",
        )
    body: dict[str, Any] = {
        "name": draft.name,
        "created_at": created_at,
        "paper": draft.paper,
        "role": "retriever",
        "encoder": draft.encoder,
        "inputs": inputs,
        "outputs": outputs,
        "n_items": len(draft.items) - 1,
        "item_tables": tables,
        "golden": golden,
        "interest_phrases": phrases,
        "files": {path.name: digest(path) for path in sorted(folder.iterdir())},
        "dataset": draft.dataset,
        "seed": draft.seed,
        "config": draft.config,
        "knowledge": draft.knowledge,
        "history_source": draft.history_source,
        "history_events": list(draft.history_events),
        "metrics": draft.metrics,
        "evaluation": draft.evaluation,
    }
    return Manifest(**body, version=version_of(body, created_at))


def publish(staged: Path, final: Path) -> Path:
    """One rename after everything is on disk, so that a reader or a power cut never meets half an artefact."""
    for path in staged.iterdir():
        _fsync(path)
    _fsync(staged)
    final.parent.mkdir(parents=True, exist_ok=True)
    # The version is a digest of the content and the second of its creation: the same version is the same artefact.
    if not final.exists():
        staged.rename(final)
        _fsync(final.parent)
    return final


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
