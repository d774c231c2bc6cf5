"""The plain files of an artefact folder, trusted only once their digests agree with the manifest."""

from __future__ import annotations

import hashlib
import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from service.artefact.manifest import SCHEMA_VERSION, FileSpec, Manifest, RankerManifest, version_of

MANIFEST = "manifest.json"
ENCODER = "encoder.onnx"
RANKER = "ranker.onnx"
ITEMS = "items.npy"
CATALOGUE = "items.parquet"

AnyManifest = TypeVar("AnyManifest", Manifest, RankerManifest)

# Far above any real manifest; a limit keeps a hostile file from being parsed at all.
MANIFEST_BYTES_LIMIT = 16 * 1024 * 1024


def digest(path: Path) -> FileSpec:
    """Size and sha256 of one file, read once."""
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return FileSpec(sha256=sha256, bytes=stream.tell())


@dataclass(frozen=True)
class Listing:
    """What lies in the folder: names of regular files, and one reason for everything else."""

    files: frozenset[str]
    reasons: list[str]


def list_folder(folder: Path) -> Listing:
    """Regular files of `folder`. Symbolic links, subfolders and devices are reasons for refusal, and never opened."""
    files, reasons = set(), []
    for entry in sorted(folder.iterdir()):
        mode = entry.lstat().st_mode
        if stat.S_ISREG(mode):
            files.add(entry.name)
        elif stat.S_ISLNK(mode):
            reasons.append(f"{entry.name}: is a symbolic link, an artefact holds plain files only")
        else:
            reasons.append(f"{entry.name}: is not a plain file, an artefact holds plain files only")
    return Listing(frozenset(files), reasons)


def role_of(folder: Path) -> str | None:
    """`retriever` or `ranker`, as the manifest says; None where there is no manifest that can be read."""
    try:
        if (folder / MANIFEST).stat().st_size > MANIFEST_BYTES_LIMIT:
            return None
        found = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    role = found.get("role") if isinstance(found, dict) else None
    return role if isinstance(role, str) else None


def read_manifest(folder: Path, kind: type[AnyManifest]) -> tuple[AnyManifest | None, list[str]]:
    """The manifest and nothing to complain about, or no manifest and why."""
    path = folder / MANIFEST
    size = path.stat().st_size
    if size > MANIFEST_BYTES_LIMIT:
        return None, [f"{MANIFEST}: is {size} bytes, expected at most {MANIFEST_BYTES_LIMIT}"]
    raw = path.read_bytes()
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        return None, [f"{MANIFEST}: is not JSON ({error})"]
    if not isinstance(found, dict):
        return None, [f"{MANIFEST}: holds a JSON {type(found).__name__}, expected an object"]
    if found.get("schema_version") != SCHEMA_VERSION:
        version = found.get("schema_version")
        return None, [f"{MANIFEST}: schema_version is {version!r}, this service reads {SCHEMA_VERSION}"]
    try:
        manifest = kind.model_validate_json(raw)
    except ValidationError as error:
        return None, [
            f"{MANIFEST}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)
        ]
    return manifest, _version_faults(folder, manifest)


def verify_files(
    folder: Path, manifest: Manifest | RankerManifest, present: frozenset[str]
) -> tuple[frozenset[str], list[str]]:
    """Names of the files whose bytes are the manifest's, and a reason for each that is missing, changed or foreign."""
    trusted, reasons = set(), []
    for name, expected in sorted(manifest.files.items()):
        if name not in present:
            reasons.append(f"{name}: is missing, the manifest lists it")
            continue
        size = (folder / name).stat().st_size
        if size != expected.bytes:
            reasons.append(f"{name}: is {size} bytes, the manifest says {expected.bytes}")
            continue
        found = digest(folder / name)
        if found != expected:
            reasons.append(f"{name}: sha256 is {found.sha256}, the manifest says {expected.sha256}")
            continue
        trusted.add(name)
    for name in sorted(present - manifest.files.keys() - {MANIFEST}):
        reasons.append(f"{name}: is not listed in the manifest")
    return frozenset(trusted), reasons


def _version_faults(folder: Path, manifest: Manifest | RankerManifest) -> list[str]:
    """The version carries a digest of the manifest, so this finds a manifest that was edited after the export."""
    reasons = []
    expected = version_of(manifest.model_dump(), manifest.created_at)
    if manifest.version != expected:
        reasons.append(f"{MANIFEST}: version is {manifest.version}, its content gives {expected}")
    resolved = folder.resolve()
    if resolved.name != manifest.version:
        reasons.append(f"{MANIFEST}: version is {manifest.version}, the folder is called {resolved.name}")
    if resolved.parent.name != manifest.name:
        reasons.append(f"{MANIFEST}: name is {manifest.name}, the folder lies in {resolved.parent.name}")
    return reasons
