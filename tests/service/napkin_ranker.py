"""A ranker that fits on the same napkin: it knows items a to e, and z of one user.

logit in scenario `up`   a 1, b 2, c 3, d 4, e 5      after `e` was seen last, a gets 10 more
logit in scenario `down` the negative
z (one number) is added to a's logit
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
from napkin import NOW
from numpy.typing import NDArray

from service.artefact.manifest import (
    GoldenSpec,
    ItemTableSpec,
    RankerManifest,
    RankerSpec,
    UserZSpec,
)
from service.artefact.ranker_directory import RankerArtefact, ranker_tensors
from service.artefact.user_z import UserZ
from service.inference.ranker import Ranker, RankRow
from service.served_ranker import ServedRanker

KNOWN = ["", "a", "b", "c", "d", "e"]
TOLD, Z = "ann", -20.0
BUILT = NOW - 1_000


class NapkinRanker:
    """In the place of a `Ranker`; `fails` makes it raise, `rows` is what it was asked."""

    provider = "napkin"

    def __init__(self, artefact: RankerArtefact) -> None:
        self.artefact = artefact
        self.rows: list[RankRow] = []
        self.fails = False

    def score(self, rows: Sequence[RankRow]) -> list[NDArray[np.float32]]:
        self.rows += rows
        if self.fails:
            raise ValueError("no idea")
        return [self._score(row) for row in rows]

    def _score(self, row: RankRow) -> NDArray[np.float32]:
        found = np.array(row.candidates, dtype=np.float32)
        found[np.array(row.candidates) == 1] += 10.0 * (list(row.history[-1:]) == [5])
        if row.user_z is not None:
            found[np.array(row.candidates) == 1] += row.user_z[0]
        return found if row.scenario_index == 0 else -found


def napkin_ranker(folder: Path) -> tuple[ServedRanker, NapkinRanker]:
    spec = RankerSpec(kind="napkin", padding="left", max_seq_len=3, dim=1, z_size=1, scenarios=["up", "down"])
    inputs, outputs = ranker_tensors(spec)
    manifest = RankerManifest(
        name="napkin-ranker",
        version="20260101T000000Z-00000000",
        created_at=datetime.fromtimestamp(BUILT, UTC),
        paper=None,
        role="ranker",
        ranker=spec,
        inputs=inputs,
        outputs=outputs,
        n_items=5,
        item_tables={"items": ItemTableSpec(file="items.npy", dtype="float32", shape=[6, 1], meaning="napkin")},
        user_z=UserZSpec(n_users=1),
        golden=GoldenSpec(cases=["short"]),
        files={},
        dataset={},
        seed=None,
        config={},
        knowledge=None,
        history_source="user+session",
        history_events=["view"],
        metrics={},
        evaluation=None,
    )
    (folder / "manifest.json").write_text(json.dumps({}))
    artefact = RankerArtefact(
        path=folder,
        manifest=manifest,
        items=np.zeros((6, 1), np.float32),
        item_ids=KNOWN,
        index_of={item: place for place, item in enumerate(KNOWN) if place},
        scenario_index={"up": 0, "down": 1},
        user_z=UserZ(np.array([TOLD.encode()]), np.array([[Z]], np.float16)),
    )
    fake = NapkinRanker(artefact)
    return ServedRanker(cast(Ranker, fake)), fake


def chance(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))


def of(reply: dict[str, Any]) -> str:
    """Item ids of a reply, one letter each."""
    return "".join(item["item_id"] for item in reply["items"])
