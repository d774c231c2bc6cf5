"""A ranker's artefact, opened only if nothing in it contradicts its manifest; the order of looks is `directory`'s."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.artefact.directory import external_faults
from service.artefact.files import CATALOGUE, ITEMS, MANIFEST, RANKER, list_folder, read_manifest, verify_files
from service.artefact.manifest import RankerManifest, RankerSpec, TensorSpec
from service.artefact.tables import open_table, read_catalogue
from service.artefact.user_z import UserZ, read_user_z
from service.errors import ArtefactRefused


@dataclass(frozen=True)
class RankerArtefact:
    """A checked artefact. Lists have n_items + 1 entries by item index; entry 0 is padding."""

    path: Path
    manifest: RankerManifest
    items: NDArray[np.float32]  # memory-mapped (n_items + 1, dim)
    item_ids: list[str]
    index_of: dict[str, int]
    scenario_index: dict[str, int]
    user_z: UserZ | None


@dataclass(frozen=True)
class RankerInspection:
    """What a look into the folder found. `artefact` is there when `reasons` is empty."""

    label: str
    artefact: RankerArtefact | None
    reasons: list[str]


def open_ranker(path: Path) -> RankerArtefact:
    """The artefact in `path`, its tables memory-mapped.

    Raises:
        ArtefactRefused: with every reason found.
    """
    inspection = inspect_ranker(path)
    if inspection.artefact is None:
        raise ArtefactRefused(inspection.label, inspection.reasons)
    return inspection.artefact


def ranker_tensors(ranker: RankerSpec) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Inputs and outputs of a ranker's graph."""
    inputs = [
        TensorSpec(name="item_seq", dtype="int64", shape=["batch", "length"]),
        TensorSpec(name="seq_len", dtype="int64", shape=["batch"]),
        TensorSpec(name="scenario_index", dtype="int64", shape=["batch"]),
        TensorSpec(name="candidates", dtype="int64", shape=["batch", "n_candidates"]),
    ]
    if ranker.z_size:
        inputs += [
            TensorSpec(name="user_z", dtype="float32", shape=["batch", ranker.z_size]),
            TensorSpec(name="has_user_z", dtype="int64", shape=["batch"]),
        ]
    return inputs, [TensorSpec(name="scores", dtype="float32", shape=["batch", "n_candidates"])]


def inspect_ranker(path: Path) -> RankerInspection:
    """Everything that can be said about the folder without running its graph."""
    resolved = path.resolve()
    label = f"{resolved.parent.name}/{resolved.name}"
    if not path.is_dir():
        return RankerInspection(label, None, [f"{path}: is not a folder"])
    listing = list_folder(path)
    reasons = list(listing.reasons)
    if MANIFEST not in listing.files:
        return RankerInspection(label, None, [*reasons, f"{MANIFEST}: is missing"])
    manifest, faults = read_manifest(path, RankerManifest)
    reasons += faults
    if manifest is None:
        return RankerInspection(label, None, reasons)
    reasons += _contradictions(manifest)
    trusted, faults = verify_files(path, manifest, listing.files)
    reasons += faults
    if RANKER in trusted:
        reasons += external_faults(path / RANKER, manifest, trusted)

    items, catalogue, user_z = None, None, None
    table = manifest.item_tables.get("items")
    if table is not None and table.file in trusted:
        items, faults = open_table(path / table.file, table)
        reasons += faults
    if CATALOGUE in trusted:
        catalogue, faults = read_catalogue(path / CATALOGUE, manifest.n_items)
        reasons += faults
    spec = manifest.user_z
    if spec is not None and {spec.file, spec.ids} <= trusted:
        user_z, faults = read_user_z(path, spec, manifest.ranker.z_size)
        reasons += faults
    if reasons or items is None or catalogue is None:
        return RankerInspection(label, None, reasons)
    item_ids = ["", *catalogue.item_ids]
    artefact = RankerArtefact(
        path=path,
        manifest=manifest,
        items=items,
        item_ids=item_ids,
        index_of={item_id: index for index, item_id in enumerate(item_ids) if index},
        scenario_index={name: place for place, name in enumerate(manifest.ranker.scenarios)},
        user_z=user_z,
    )
    return RankerInspection(label, artefact, [])


def _contradictions(manifest: RankerManifest) -> list[str]:
    """Where parts of the manifest disagree with each other or with the contract of a ranker."""
    ranker, spec = manifest.ranker, manifest.user_z
    needed = [RANKER, ITEMS, CATALOGUE, manifest.golden.file, *([] if spec is None else [spec.file, spec.ids])]
    faults = [
        f"{MANIFEST}: files does not list {name}, this artefact has it" for name in needed if name not in manifest.files
    ]
    table, shape = manifest.item_tables.get("items"), [manifest.n_items + 1, ranker.dim]
    if table is None or (table.file, table.dtype, table.shape) != (ITEMS, "float32", shape):
        found = "missing" if table is None else f"{table.file} {table.dtype} {table.shape}"
        faults.append(f"{MANIFEST}: item_tables.items is {found}, n_items and ranker.dim say {ITEMS} float32 {shape}")
    if spec is not None and not ranker.z_size:
        faults.append(f"{MANIFEST}: user_z is there, and ranker.z_size is 0")
    if len(set(ranker.scenarios)) != len(ranker.scenarios):
        faults.append(f"{MANIFEST}: ranker.scenarios names one twice: {', '.join(ranker.scenarios)}")
    inputs, outputs = ranker_tensors(ranker)
    for kind, has, wants in (("inputs", manifest.inputs, inputs), ("outputs", manifest.outputs, outputs)):
        if has != wants:
            told = [
                ", ".join(f"{tensor.name} {tensor.dtype} {tensor.shape}" for tensor in side) for side in (has, wants)
            ]
            faults.append(f"{MANIFEST}: {kind} are {told[0]}, expected {told[1]}")
    return faults
