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
from service.features.sequence import foreign_items
from service.inference.engine import Operation, ResultRows, Row
from service.inference.ranker import Ranker, RankRow
from service.inference.ranker_golden import check_ranker_golden
from service.inference.runtime import Device


class ServedRanker:
    """One loaded ranker and all that the service derives from it.

    Args:
        loaded: with a graph it can `search`; an artefact alone is a ranker that runs in another process.
    """

    def __init__(self, loaded: Ranker | RankerArtefact, *, load_s: float = 0.0) -> None:
        here = None if isinstance(loaded, RankerArtefact) else loaded
        self.artefact: RankerArtefact = loaded if isinstance(loaded, RankerArtefact) else loaded.artefact
        self.manifest: RankerManifest = self.artefact.manifest
        self.name, self.version = self.manifest.name, self.manifest.version
        self.sha256 = hashlib.sha256((self.artefact.path / "manifest.json").read_bytes()).hexdigest()
        self.device = here.provider if here else "another process"
        self.load_s = load_s
        # It has no top-k: all of its candidates come back.
        self.top_k, self.top_k_fallbacks = "none", 0
        self.top_k_recall: float | None = None
        if here:
            self._ranker = here

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"

    def fault_of(self, operation: Operation, row: Row) -> str | None:
        """What is wrong with a row that would fail every row of its batch; None where nothing is."""
        if operation != "rank" or not isinstance(row, RankRow):
            return "a history alone for a ranker"
        spec = self.manifest.ranker
        if row.scenario_index >= len(spec.scenarios):
            return f"scenario {row.scenario_index} of {len(spec.scenarios)}"
        if row.user_z is not None and len(row.user_z) != spec.z_size:
            return f"a z of {len(row.user_z)}, expected {spec.z_size}"
        return foreign_items([*row.history, *row.candidates], self.manifest.n_items)

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
