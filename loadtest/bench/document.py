"""The result of a benchmark: one JSON that parts are added to, run after run."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from loadtest.errors import InputError
from loadtest.results import SCHEMA_VERSION, write_json

KIND = "bench"


def read(path: Path) -> dict[str, Any]:
    """The document at `path`; an empty one where there is none.

    Raises:
        InputError: the file is something else.
    """
    if not path.exists():
        return {"schema_version": SCHEMA_VERSION, "kind": KIND, "parts": {}}
    try:
        document = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise InputError(f"{path}: not a result file: {error}") from error
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise InputError(f"{path}: not the result of a benchmark")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{path}: schema version {document.get('schema_version')!r}; expected {SCHEMA_VERSION}")
    return document


def add(path: Path, name: str, part: Mapping[str, Any], *, machine: Mapping[str, Any], command: str) -> None:
    """Puts one part into the document, in place of an older one of that name; complete or not at all."""
    with _alone(path):
        document = read(path)
        document["machine"] = dict(machine)
        document["parts"][name] = {
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": machine.get("commit"),
            "command": command,
            **part,
        }
        write_json(path, document)


def merge(paths: list[Path], out: Path) -> dict[str, Any]:
    """One document from several; of parts with one name the one measured last stays."""
    merged: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "kind": KIND, "parts": {}}
    for path in paths:
        document = read(path)
        merged["machine"] = document.get("machine", merged.get("machine"))
        for name, part in document["parts"].items():
            known = merged["parts"].get(name)
            if known is None or part["measured_at"] >= known["measured_at"]:
                merged["parts"][name] = part
    write_json(out, merged)
    return merged


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Two benchmarks with one result file add their parts one after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
