"""The lower rungs of the ladder, all in process memory: last good lists, popular items, catalogue order."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.artefact.directory import Artefact

Owner = tuple[Literal["user", "session"], str]


class PopularItems:
    """The catalogue by training popularity (`popular`), or in its own order where none is known (`static`)."""

    def __init__(self, artefact: Artefact) -> None:
        self._popularity = artefact.popularity
        self._available = artefact.available
        self.tier: Literal["popular", "static"] = "popular" if artefact.popularity.any() else "static"
        # Stable, so that equally popular items keep the order of item_id.
        self._order = np.argsort(-artefact.popularity[1:], kind="stable") + 1

    def best(self, k: int, excluded: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[float | None]]:
        """At most k available indices that are not excluded, best first, and training counts (None in static)."""
        found: list[NDArray[np.int64]] = []
        missing, start = k, 0
        while missing > 0 and start < len(self._order):
            some = self._order[start : start + missing + len(excluded)]
            start += len(some)
            kept = some[self._available[some] & ~np.isin(some, excluded)][:missing]
            found.append(kept)
            missing -= len(kept)
        items = np.concatenate(found) if found else np.empty(0, np.int64)
        if self.tier == "static":
            return items, [None] * len(items)
        return items, [float(count) for count in self._popularity[items]]


@dataclass(frozen=True, slots=True)
class LastList:
    """What the model last said to somebody, and what they had seen by then. Indices of one model version."""

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    seen: NDArray[np.int64]


class LastLists:
    """The last good list per owner, scenario and model version; the least recently used owners are forgotten.

    At most `max_owners` owners; a list holds at most 200 items and 1,000 seen ones, so an owner costs at most about
    10 kB per scenario.
    """

    def __init__(self, max_owners: int) -> None:
        self._max_owners = max_owners
        self._lists: OrderedDict[Owner, dict[tuple[str, str], LastList]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lists)

    def put(self, owner: Owner, scenario: str, version: str, last: LastList) -> None:
        of_owner = self._lists.setdefault(owner, {})
        # One version per scenario: after a swap the old one is of no use.
        for key in [key for key in of_owner if key[0] == scenario and key[1] != version]:
            del of_owner[key]
        of_owner[scenario, version] = last
        self._lists.move_to_end(owner)
        while len(self._lists) > self._max_owners:
            self._lists.popitem(last=False)

    def get(self, owner: Owner, scenario: str, version: str) -> LastList | None:
        last = self._lists.get(owner, {}).get((scenario, version))
        if last is not None:
            self._lists.move_to_end(owner)
        return last

    def drop(self, owner: Owner) -> None:
        self._lists.pop(owner, None)
