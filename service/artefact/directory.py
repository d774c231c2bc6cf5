"""An artefact directory, opened only if nothing in it contradicts its manifest.

Order matters: names and kinds of the files, then the manifest, then digests, and only then the content of files whose
bytes are the ones that were exported. Every fault is collected, so one look is enough to repair an artefact.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.artefact.files import CATALOGUE, ENCODER, ITEMS, MANIFEST, list_folder, read_manifest, verify_files
from service.artefact.manifest import FILE_PATTERN, NAME_PATTERN, VERSION_PATTERN, Manifest, RankerManifest
from service.artefact.onnx_file import ExternalTensor, OnnxFileError, external_tensors
from service.artefact.phrases import InterestPhrases, read_phrases
from service.artefact.tables import Catalogue, npy_header_bytes, open_table, read_catalogue
from service.errors import ArtefactError, ArtefactRefused

# The output of predicted intents, and the item table by which they are known (decision 12).
INTENTS: Final = "intents"


@dataclass(frozen=True)
class Artefact:
    """A checked artefact. Lists and arrays have n_items + 1 entries by item index; entry 0 is padding."""

    path: Path
    manifest: Manifest
    items: NDArray[np.float32]  # memory-mapped (n_items + 1, dim)
    item_ids: list[str]
    index_of: dict[str, int]
    titles: list[str | None]
    categories: list[str | None]
    popularity: NDArray[np.int64]
    available: NDArray[np.bool_]
    phrases: InterestPhrases | None = None
    intent_items: NDArray[np.float32] | None = None  # memory-mapped (n_items + 1, dim): items as intents


@dataclass(frozen=True)
class Inspection:
    """What a look into the folder found. `artefact` is there when `reasons` is empty."""

    label: str
    manifest: Manifest | None
    artefact: Artefact | None
    reasons: list[str]
    encoder_trusted: bool  # encoder.onnx and every file it points to have the manifest's digests


def open_artefact(path: Path) -> Artefact:
    """The artefact in `path`, its item table memory-mapped.

    Raises:
        ArtefactRefused: with every reason found.
    """
    inspection = inspect(path)
    if inspection.artefact is None:
        raise ArtefactRefused(inspection.label, inspection.reasons)
    return inspection.artefact


def resolve(root: Path, pointer: str) -> Path:
    """Folder of `name@version`, `name@latest` or `name` (= latest) below `root`.

    Raises:
        ArtefactError: the pointer is malformed, or nothing is there; the message says what is.
    """
    name, _, version = pointer.partition("@")
    if not re.fullmatch(NAME_PATTERN, name):
        raise ArtefactError(f"artefact pointer {pointer!r} is malformed, expected name, name@latest or name@version")
    versions = list_versions(root, name)
    if not versions:
        raise ArtefactError(f"artefact {pointer!r} is not in {root}; it holds {', '.join(list_names(root)) or 'none'}")
    wanted = versions[-1] if version in ("", "latest") else version
    if wanted not in versions:
        raise ArtefactError(f"artefact {pointer!r} is not in {root}; versions of {name}: {', '.join(versions)}")
    return root / name / wanted


def list_names(root: Path) -> list[str]:
    """Names below `root` that have at least one version, sorted."""
    if not root.is_dir():
        return []
    names = (entry.name for entry in root.iterdir() if re.fullmatch(NAME_PATTERN, entry.name))
    return sorted(name for name in names if list_versions(root, name))


def list_versions(root: Path, name: str) -> list[str]:
    """Versions of one artefact, oldest first. Half-written folders have other names and are not seen."""
    folder = root / name
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if re.fullmatch(VERSION_PATTERN, entry.name))


def inspect(path: Path) -> Inspection:
    """Everything that can be said about the folder without running its graph."""
    resolved = path.resolve()
    label = f"{resolved.parent.name}/{resolved.name}"
    if not path.is_dir():
        return Inspection(label, None, None, [f"{path}: is not a folder"], False)
    listing = list_folder(path)
    reasons = list(listing.reasons)
    if MANIFEST not in listing.files:
        return Inspection(label, None, None, [*reasons, f"{MANIFEST}: is missing"], False)
    manifest, faults = read_manifest(path, Manifest)
    reasons += faults
    if manifest is None:
        return Inspection(label, None, None, reasons, False)
    reasons += _contradictions(manifest)
    trusted, faults = verify_files(path, manifest, listing.files)
    reasons += faults

    items, intent_items, catalogue, encoder_trusted = None, None, None, False
    for name, table in manifest.item_tables.items():
        if table.file in trusted:
            opened, faults = open_table(path / table.file, table)
            reasons += faults
            if table.file == ITEMS:
                items = opened
            elif name == INTENTS:
                intent_items = opened
    if CATALOGUE in trusted:
        catalogue, faults = read_catalogue(path / CATALOGUE, manifest.n_items)
        reasons += faults
        if (
            catalogue is not None
            and manifest.evaluation is not None
            and not catalogue.is_sorted(manifest.n_evaluated_items)
        ):
            reasons.append(f"{CATALOGUE}: rows are not in ascending item_id order, the evaluation's tie rule needs it")
    phrases = None
    if (
        manifest.interest_phrases is not None
        and {manifest.interest_phrases.file, manifest.interest_phrases.texts} <= trusted
    ):
        phrases, faults = read_phrases(path, manifest.interest_phrases, manifest.encoder.dim)
        reasons += faults
    if ENCODER in trusted:
        faults = external_faults(path / ENCODER, manifest, trusted)
        reasons += faults
        encoder_trusted = not faults
    artefact = None
    if not reasons and items is not None and catalogue is not None:
        artefact = replace(_assemble(path, manifest, items, catalogue, phrases), intent_items=intent_items)
    return Inspection(label, manifest, artefact, reasons, encoder_trusted)


def _assemble(
    path: Path,
    manifest: Manifest,
    items: NDArray[np.float32],
    catalogue: Catalogue,
    phrases: InterestPhrases | None,
) -> Artefact:
    item_ids = ["", *catalogue.item_ids]
    return Artefact(
        path=path,
        manifest=manifest,
        items=items,
        item_ids=item_ids,
        index_of={item_id: index for index, item_id in enumerate(item_ids) if index},
        titles=[None, *catalogue.titles],
        categories=[None, *catalogue.categories],
        popularity=np.concatenate([np.zeros(1, np.int64), catalogue.popularity]),
        available=np.concatenate([np.zeros(1, np.bool_), catalogue.available]),
        phrases=phrases,
    )


def _contradictions(manifest: Manifest) -> list[str]:
    """Where parts of the manifest disagree with each other or with the contract of a retriever."""
    encoder = manifest.encoder
    faults = [
        f"{MANIFEST}: files does not list {name}, every artefact has it"
        for name in (ENCODER, ITEMS, CATALOGUE, manifest.golden.file)
        if name not in manifest.files
    ]
    shape = [manifest.n_items + 1, encoder.dim]
    items = manifest.item_tables.get("items")
    if items is None:
        faults.append(f"{MANIFEST}: item_tables has no entry 'items'")
    elif (items.file, items.dtype, items.shape) != (ITEMS, "float32", shape):
        faults.append(
            f"{MANIFEST}: item_tables.items is {items.file} {items.dtype} {items.shape}, "
            f"n_items and encoder.dim say {ITEMS} float32 {shape}"
        )
    intents = manifest.item_tables.get(INTENTS)
    if intents is not None and (intents.dtype, intents.shape) != ("float32", shape):
        faults.append(
            f"{MANIFEST}: item_tables.{INTENTS} is {intents.dtype} {intents.shape}, n_items and encoder.dim say "
            f"float32 {shape}"
        )
    for name, table in manifest.item_tables.items():
        if table.file not in manifest.files:
            faults.append(f"{MANIFEST}: item_tables.{name} names {table.file}, which files does not list")
        if not table.shape or table.shape[0] != manifest.n_items + 1:
            faults.append(f"{MANIFEST}: item_tables.{name} has shape {table.shape}, expected {shape[0]} rows")
    spoken = manifest.interest_phrases
    faults += [
        f"{MANIFEST}: interest_phrases names {name}, which files does not list"
        for name in ([] if spoken is None else [spoken.file, spoken.texts])
        if name not in manifest.files
    ]
    if encoder.mode == "clean" and encoder.fixed_length is not None:
        faults.append(f"{MANIFEST}: encoder.fixed_length is {encoder.fixed_length} in clean mode, expected none")
    if encoder.fixed_length is not None and encoder.fixed_length != encoder.max_seq_len:
        faults.append(
            f"{MANIFEST}: encoder.fixed_length is {encoder.fixed_length}, encoder.max_seq_len is {encoder.max_seq_len}"
        )
    return faults + _tensor_contradictions(manifest)


def _tensor_contradictions(manifest: Manifest) -> list[str]:
    encoder = manifest.encoder
    length: int | str = encoder.fixed_length or "length"
    inputs = {tensor.name: (tensor.dtype, tensor.shape) for tensor in manifest.inputs}
    outputs = {tensor.name: (tensor.dtype, tensor.shape) for tensor in manifest.outputs}
    queries = ("float32", ["batch", encoder.n_queries, encoder.dim])
    faults = []
    if inputs != {"item_seq": ("int64", ["batch", length]), "seq_len": ("int64", ["batch"])}:
        faults.append(
            f"{MANIFEST}: inputs are {inputs}, "
            f"expected item_seq int64 ['batch', {length!r}] and seq_len int64 ['batch']"
        )
    if outputs.get("queries") != queries:
        faults.append(f"{MANIFEST}: output queries is {outputs.get('queries')}, expected {queries}")
    attention = ("float32", ["batch", encoder.n_queries, length])
    if outputs.get("attention", attention) != attention:
        faults.append(f"{MANIFEST}: output attention is {outputs['attention']}, expected {attention}")
    told = ("float32", ["batch", 2, encoder.dim])
    if outputs.get(INTENTS, told) != told:
        faults.append(f"{MANIFEST}: output {INTENTS} is {outputs[INTENTS]}, expected {told}")
    if (INTENTS in outputs) != (INTENTS in manifest.item_tables):
        faults.append(f"{MANIFEST}: output and item table '{INTENTS}' come together, one of them is not there")
    return faults


def external_faults(graph: Path, manifest: Manifest | RankerManifest, trusted: frozenset[str]) -> list[str]:
    """One sentence for each tensor of the graph that points to anything but a trusted file of its artefact."""
    try:
        tensors = external_tensors(graph)
    except OnnxFileError as error:
        return [f"{graph.name}: is not a readable ONNX file ({error})"]
    faults = []
    for tensor in tensors:
        where = f"{graph.name}: external data of tensor {tensor.name!r} is at {tensor.location!r}"
        if not re.fullmatch(FILE_PATTERN, tensor.location):
            faults.append(f"{where}, expected the name of a file of the artefact")
        elif tensor.location not in manifest.files:
            faults.append(f"{where}, which the manifest does not list")
        elif tensor.location not in trusted:
            faults.append(f"{where}, whose bytes are not the manifest's")
        else:
            faults += _range_faults(where, tensor, graph.parent / tensor.location)
    return faults


def _range_faults(where: str, tensor: ExternalTensor, target: Path) -> list[str]:
    size = target.stat().st_size
    end = size if tensor.length is None else tensor.offset + tensor.length
    if tensor.offset > size or end > size:
        return [f"{where}, bytes {tensor.offset} to {end}, the file has {size}"]
    if target.name == ITEMS:
        try:
            header = npy_header_bytes(target)
        except (ValueError, EOFError):
            return []  # reported as a fault of items.npy itself
        if (tensor.offset, end) != (header, size):
            return [f"{where}, bytes {tensor.offset} to {end}, the table is bytes {header} to {size}"]
    return []
