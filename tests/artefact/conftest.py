"""A small real artefact, and the tools to spoil it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.baselines import write_topk_only
from service.artefact.files import digest
from service.artefact.manifest import version_of

ITEM_IDS = [f"i-{number:02}" for number in range(1, 13)]


class Workshop:
    """One artefact folder under the knife. `path` follows it when it is signed again under a new version."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, name: str) -> Path:
        return self.path / name

    def flip_bit(self, name: str, position: float = 0.5, bit: int = 3) -> None:
        content = bytearray(self.file(name).read_bytes())
        content[int(position * (len(content) - 1))] ^= 1 << bit
        self.file(name).write_bytes(content)

    def truncate(self, name: str) -> None:
        self.file(name).write_bytes(self.file(name).read_bytes()[:-7])

    def manifest(self) -> dict[str, Any]:
        return dict(json.loads(self.file("manifest.json").read_bytes()))

    def write_manifest(self, body: dict[str, Any]) -> None:
        self.file("manifest.json").write_text(json.dumps(body, indent=2))

    def sign(self, change: Callable[[dict[str, Any]], object] = lambda body: None) -> None:
        """Digests and version of the files as they are now: a consistent artefact, whatever its content."""
        body = self.manifest()
        names = [path.name for path in self.path.iterdir() if path.name != "manifest.json"]
        body["files"] = {name: digest(self.path / name).model_dump() for name in sorted(names)}
        change(body)
        self.revise(body)

    def revise(self, body: dict[str, Any]) -> None:
        """Write the manifest under the version that its content gives, with the folder named after it."""
        body["version"] = version_of(body, datetime.fromisoformat(body["created_at"]))
        self.write_manifest(body)
        renamed = self.path.with_name(body["version"])
        self.path.rename(renamed)
        self.path = renamed

    def edit_golden(self, **arrays: Any) -> None:
        with np.load(self.file("golden.npz")) as found:
            content = {name: found[name] for name in found.files}
        np.savez(self.file("golden.npz"), **{**content, **arrays})

    def golden(self, name: str) -> Any:
        with np.load(self.file("golden.npz")) as found:
            return found[name].copy()


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 items, query = vector of the last item; the look-up table of encoder.onnx is items.npy."""
    return write_topk_only(
        tmp_path_factory.mktemp("pristine"),
        item_ids=ITEM_IDS,
        counts=range(12),
        titles=["Tea", *[None] * 11],
        available=[True] * 11 + [False],
    )


@pytest.fixture
def workshop(pristine: Path, tmp_path: Path) -> Workshop:
    copy = tmp_path / pristine.parent.name / pristine.name
    shutil.copytree(pristine, copy)
    return Workshop(copy)
