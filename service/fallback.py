"""The lower rungs of the ladder, all in process memory: last good lists, popular items, catalogue order."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import filterfalse, islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.artefact.directory import Artefact

Owner = tuple[Literal["user", "session"], str]

MAX_LOOKS = 100
# So many of the best are kept as plain numbers, of which nearly all answers are made, and as many hidden items looked
# up one by one: with a few numbers NumPy takes longer than a whole answer of the model costs the event loop, and lower
# tiers are for when it has no time. With more numbers it is the other way round.
_FEW = 4_096


class PopularItems:
    """The catalogue by training popularity (`popular`), or in its own order where none is known (`static`)."""

    def __init__(self, artefact: Artefact) -> None:
        self._popularity = artefact.popularity
        self._available = artefact.available
        self.tier: Literal["popular", "static"] = "popular" if artefact.popularity.any() else "static"
        # Stable, so that equally popular items keep the order of item_id.
        self._order = np.argsort(-artefact.popularity[1:], kind="stable") + 1
        self._head: list[int] = self._order[:_FEW].tolist()

    def best(self, k: int, excluded: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[float | None]]:
        """At most k available indices that are not excluded, best first, and training counts (None in static)."""
        head = self._best_of_head(k, excluded) if len(excluded) < _FEW else []
        is_all = len(head) == k or len(self._head) == len(self._order)
        items = np.array(head, np.int64) if head and is_all else self._best_of_all(k, excluded)
        if self.tier == "static":
            return items, [None] * len(items)
        return items, self._popularity[items].astype(np.float64).tolist()

    def _best_of_head(self, k: int, excluded: NDArray[np.int64]) -> list[int]:
        shown = filterfalse(set(excluded.tolist()).__contains__, filter(self._available.item, self._head))
        return list(islice(shown, k))

    def _best_of_all(self, k: int, excluded: NDArray[np.int64]) -> NDArray[np.int64]:
        found: list[NDArray[np.int64]] = []
        missing, start = k, 0
        while missing > 0 and start < len(self._order):
            some = self._order[start : start + missing + len(excluded)]
            start += len(some)
            kept = some[self._available[some] & ~np.isin(some, excluded)][:missing]
            found.append(kept)
            missing -= len(kept)
        return np.concatenate(found) if found else np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class LastList:
    """What the model last said to somebody, and what they had seen by then. Indices of one model version."""

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    seen: NDArray[np.int64]

    def places_without(self, hidden: NDArray[np.int64]) -> list[int]:
        """Where in the list those items are that are not hidden."""
        if len(hidden) >= _FEW:
            return np.flatnonzero(~np.isin(self.items, hidden)).tolist()
        is_hidden = set(hidden.tolist()).__contains__
        return [place for place, item in enumerate(self.items.tolist()) if not is_hidden(item)]


class LastLists:
    """What this process remembers of people for when the store is out of reach; least recently used owners go first.

    Per owner: the last good list by scenario and model version, and the newest items looked at. At most `max_owners`
    owners; a list holds at most 200 items and 1,000 seen ones, so an owner costs some 10 kB per scenario at most.
    """

    def __init__(self, max_owners: int) -> None:
        self._max_owners = max_owners
        self._owners: OrderedDict[Owner, _Memory] = OrderedDict()
        self.n_drops = 0  # owners forgotten so far: what was learnt before one of them must not come back

    def __len__(self) -> int:
        return len(self._owners)

    def put(self, owner: Owner, scenario: str, version: str, last: LastList) -> None:
        lists = self._memory(owner).lists
        # One version per scenario: after a swap the old one is of no use.
        for key in [key for key in lists if key[0] == scenario and key[1] != version]:
            del lists[key]
        lists[scenario, version] = last
        self._shrink()

    def get(self, owner: Owner, scenario: str, version: str) -> LastList | None:
        memory = self._owners.get(owner)
        return None if memory is None else memory.lists.get((scenario, version))

    def note(self, owner: Owner, event_type: str, item_id: str) -> None:
        """Remembers that the owner did something with an item."""
        self._memory(owner).looks.append((event_type, item_id))
        self._shrink()

    def looks(self, owner: Owner) -> Sequence[tuple[str, str]]:
        """The newest (event type, item_id) of the owner."""
        memory = self._owners.get(owner)
        return () if memory is None else memory.looks

    def drop(self, owner: Owner) -> None:
        self.n_drops += 1
        self._owners.pop(owner, None)

    def _memory(self, owner: Owner) -> _Memory:
        memory = self._owners.setdefault(owner, _Memory())
        self._owners.move_to_end(owner)
        return memory

    def _shrink(self) -> None:
        while len(self._owners) > self._max_owners:
            self._owners.popitem(last=False)


@dataclass(slots=True)
class _Memory:
    lists: dict[tuple[str, str], LastList] = field(default_factory=dict)
    looks: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=MAX_LOOKS))
