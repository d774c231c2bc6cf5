"""Candidates to scores: the ranker graph of one artefact behind one method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.artefact.files import RANKER
from service.artefact.manifest import RankerSpec
from service.artefact.ranker_directory import RankerArtefact
from service.errors import ArtefactError
from service.features.ranking import encode_candidates
from service.features.sequence import encode_sequences
from service.inference.retriever import open_graph
from service.inference.runtime import Device


@dataclass(frozen=True, slots=True)
class RankRow:
    """One request to a ranker, in indices of its item table.

    Args:
        history: oldest first; the newest max_seq_len are read.
        user_z: float32 (z_size,); None where the LLM told nothing of the user: then it is predicted.
    """

    history: Sequence[int]
    scenario_index: int
    candidates: Sequence[int]
    user_z: NDArray[np.float32] | None = None


class Ranker:
    """The graph of one artefact, checked against its manifest and ready to run.

    Args:
        table: the item table from `place`; by default the graph maps `items.npy` itself.

    Raises:
        ArtefactRefused: the graph cannot be loaded, or its tensors are not the manifest's.
        SettingsError: ONNX Runtime or the device is not there.
    """

    def __init__(self, artefact: RankerArtefact, *, intra_op_threads: int, device: Device, table: Any = None) -> None:
        self.artefact = artefact
        self._table = table  # must live as long as the session
        self._session = open_graph(artefact.path / RANKER, artefact.manifest, intra_op_threads, device, table)

    @property
    def provider(self) -> str:
        """Execution provider the session really uses, e.g. CPUExecutionProvider."""
        return str(self._session.get_providers()[0])

    def score(self, rows: Sequence[RankRow]) -> list[NDArray[np.float32]]:
        """Logits float32 (candidates,) of each row, in the order of its candidates; one run for all rows.

        Raises:
            UnknownItemIndex: an index outside 1..n_items.
            ArtefactError: a scenario index is not the manifest's, the graph failed, or gave another shape.
        """
        manifest = self.artefact.manifest
        return run_ranker(self._session, manifest.ranker, manifest.n_items, rows)


def run_ranker(session: Any, ranker: RankerSpec, n_items: int, rows: Sequence[RankRow]) -> list[NDArray[np.float32]]:
    """Logits of each row's candidates, of one `run` over all rows."""
    if not rows:
        return []
    if foreign := [row.scenario_index for row in rows if not 0 <= row.scenario_index < len(ranker.scenarios)]:
        # ONNX Gather accepts -1 in silence.
        raise ArtefactError(f"{RANKER}: scenario index is {foreign[0]}, expected 0..{len(ranker.scenarios) - 1}")
    item_seq, seq_len = encode_sequences(
        [row.history for row in rows], ranker.max_seq_len, padding=ranker.padding, n_items=n_items
    )
    candidates = encode_candidates([row.candidates for row in rows], n_items=n_items)
    inputs: dict[str, NDArray[Any]] = {
        "item_seq": item_seq,
        "seq_len": seq_len,
        "scenario_index": np.array([row.scenario_index for row in rows], dtype=np.int64),
        "candidates": candidates,
    }
    if ranker.z_size:
        inputs["has_user_z"] = np.array([row.user_z is not None for row in rows], dtype=np.int64)
        z = np.zeros((len(rows), ranker.z_size), dtype=np.float32)
        for place, row in enumerate(rows):
            if row.user_z is not None:
                z[place] = row.user_z
        inputs["user_z"] = z
    try:
        (scores,) = session.run(["scores"], inputs)
    except Exception as error:  # ONNX Runtime's exceptions share no base class below Exception
        raise ArtefactError(
            f"{RANKER}: run failed for candidates {candidates.shape}: {str(error).splitlines()[0]}"
        ) from error
    if scores.shape != candidates.shape:
        raise ArtefactError(f"{RANKER}: scores have shape {scores.shape}, expected {candidates.shape}")
    return [scores[place, : len(row.candidates)] for place, row in enumerate(rows)]
