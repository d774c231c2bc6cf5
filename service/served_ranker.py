"""A loaded ranker as the engine and the online path see it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.artefact.directory import Artefact
from service.artefact.manifest import RankerManifest
from service.artefact.ranker_directory import RankerArtefact, open_ranker
from service.inference.engine import Operation, ResultRows
from service.inference.ranker import Ranker, RankRow
from service.inference.ranker_golden import check_ranker_golden
from service.inference.runtime import Device


class ServedRanker:
    """One loaded ranker and all that the service derives from it."""

    def __init__(self, ranker: Ranker, *, load_s: float = 0.0) -> None:
        self._ranker = ranker
        self.artefact: RankerArtefact = ranker.artefact
        self.manifest: RankerManifest = self.artefact.manifest
        self.name, self.version = self.manifest.name, self.manifest.version
        self.sha256 = hashlib.sha256((self.artefact.path / "manifest.json").read_bytes()).hexdigest()
        self.device = ranker.provider
        self.load_s = load_s
        self.top_k_fallbacks = 0  # it has no top-k

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"

    def search(
        self, operation: Operation, rows: Sequence[RankRow], k: int, excluded: Sequence[NDArray[np.int64]]
    ) -> ResultRows:
        """Per row the places of its candidates, best first, and their logits; ties in the order they were given."""
        found = []
        for scores in self._ranker.score(rows):
            order = np.argsort(-scores, kind="stable")
            found.append((order.astype(np.int64), scores[order]))
        return found

    def index_map(self, retriever: Artefact) -> NDArray[np.int32]:
        """int32 (n_items + 1,): the ranker's index of each row of a retriever's item table; 0 where it has none."""
        index_of = self.artefact.index_of
        return np.array([0, *(index_of.get(item_id, 0) for item_id in retriever.item_ids[1:])], dtype=np.int32)

    def told_z(self, user_id: str | None) -> NDArray[np.float32] | None:
        """What an LLM told of the user; None for everybody else."""
        if user_id is None or self.artefact.user_z is None:
            return None
        return self.artefact.user_z.find(user_id)


def load_ranker(path: Path, *, intra_op_threads: int, device: Device) -> ServedRanker:
    """The ranker in `path`, its golden scores reproduced, and so warmed up.

    Raises:
        ArtefactRefused: with the reasons of the first step that failed.
        SettingsError: ONNX Runtime or the device is not there.
    """
    started = time.monotonic()
    ranker = Ranker(open_ranker(path), intra_op_threads=intra_op_threads, device=device)
    check_ranker_golden(ranker)
    return ServedRanker(ranker, load_s=time.monotonic() - started)
