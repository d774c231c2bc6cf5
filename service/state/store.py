"""What the service needs from a store of behaviour: one interface, implemented by `memory` and `redis_store`.

A *timeline* is the stored behaviour of one owner: a user or a session. An event that names both lands in both.
External item ids are stored, never row numbers, because state outlives model versions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Event:
    """One thing a person did with one item. `ts` is seconds since 1970; at least one of the two owners is set."""

    event_id: str
    type: str
    item_id: str
    ts: float
    user_id: str | None = None
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class History:
    """Stored events of a user and of a session, each oldest first by (`ts`, arrival).

    An event that named both owners is in both lists, with the same `event_id`. In `session` every `user_id` is None:
    sessions store nothing that names a person.
    """

    user: list[Event]
    session: list[Event]


@dataclass(frozen=True, slots=True)
class NewestLooks:
    """What the online path needs of one timeline: columns of one length, oldest first by (`ts`, arrival)."""

    event_ids: Sequence[str] = ()
    types: Sequence[str] = ()
    item_ids: Sequence[str] = ()

    def of_types(self, types: Collection[str]) -> NewestLooks:
        """Those events alone."""
        if set(self.types).issubset(types):
            return self
        return self._at([place for place, kind in enumerate(self.types) if kind in types])

    def without(self, event_ids: Collection[str]) -> NewestLooks:
        """The events that are not among these."""
        others = set(event_ids)
        if others.isdisjoint(self.event_ids):
            return self
        return self._at([place for place, event_id in enumerate(self.event_ids) if event_id not in others])

    def _at(self, places: Sequence[int]) -> NewestLooks:
        return NewestLooks(*([column[at] for at in places] for column in (self.event_ids, self.types, self.item_ids)))


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is kept, and for how long. Every append to a timeline starts its time to live anew; reads do not."""

    max_events: int = 500
    user_ttl_s: float = 180 * DAY_S
    session_ttl_s: float = 1_800.0
    # The same event_id is a no-op for this long after its first arrival ...
    dedupe_s: float = DAY_S
    # ... as far as the newest `max_dedupe` ids of the timeline reach: a bound on what one noisy owner can cost.
    max_dedupe: int = 5_000

    def ttl_s(self, owner: Owner) -> float:
        return self.user_ttl_s if owner.kind == "u" else self.session_ttl_s


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose timeline: kind `u` (user) or `s` (session), and the id."""

    kind: Literal["u", "s"]
    id: str


class StateStore(Protocol):
    """Histories by user and session.

    Every method raises `StoreUnavailable`, and nothing else, when the store cannot answer: within `timeout_s` where the
    method takes one, within the store's own administrative timeout elsewhere.
    """

    async def recall(
        self, user_id: str | None, session_id: str | None, *, timeout_s: float
    ) -> tuple[NewestLooks, NewestLooks]:
        """What `read` says of the user and the session, without the times: the cheap way, for each request."""
        ...

    async def read(self, user_id: str | None, session_id: str | None, *, timeout_s: float) -> History:
        """Histories of both owners, in one round trip. An owner that is None or unknown has an empty list."""
        ...

    async def append(self, events: Sequence[Event], *, timeout_s: float) -> list[bool]:
        """True where an event is new, False where every timeline it names already had its `event_id`.

        Each timeline takes its events in one step, 200 at a time. Safe to repeat after `StoreUnavailable`, when some of
        them may have been stored.

        Raises:
            ValueError: an event that no store can place (see `check_events`); nothing was stored.
        """
        ...

    async def merge(self, user_id: str, *, from_user_id: str | None = None, from_session_id: str | None = None) -> int:
        """Number of events moved into the user's timeline from the sources, which are gone afterwards.

        Events keep `event_id`, `ts` and their order; one that the user already has is not doubled. Safe to repeat after
        a failure at any point, and a no-op for a source that is unknown or the user itself.
        """
        ...

    async def export_user(self, user_id: str) -> list[Event]:
        """Everything stored for the user, oldest first."""
        ...

    async def delete_user(self, user_id: str) -> int:
        """Number of keys removed: the user's and those of the sessions that the user's stored events name.

        Leaves a tombstone, first of all: what was made of the user offline before now is not to be used any more.
        """
        ...

    async def deleted_at(self, user_id: str, *, timeout_s: float) -> float | None:
        """When the user was last deleted, in seconds since 1970; None if never. Kept without an end."""
        ...

    async def delete_session(self, session_id: str) -> int:
        """Number of keys removed; 0 when nothing was stored."""
        ...

    async def ping(self) -> None:
        """Returns when the store answers."""
        ...

    async def close(self) -> None:
        """Gives connections back. The store cannot be used afterwards."""
        ...


def check_events(events: Iterable[Event]) -> None:
    """Raises ValueError on an event that no store can place.

    That is one without an owner, with a `ts` that is not finite, or with text that is not Unicode (half a surrogate
    pair).
    """
    for event in events:
        if event.user_id is None and event.session_id is None:
            raise ValueError(f"event {event.event_id!r} has neither user_id nor session_id")
        if not math.isfinite(event.ts):
            raise ValueError(f"event {event.event_id!r} has ts {event.ts}, expected a finite number of seconds")
        try:
            f"{event.event_id}{event.type}{event.item_id}{event.user_id}{event.session_id}".encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"event {event.event_id!r} holds text that is not Unicode: {error.reason}") from error


def owners_of(event: Event) -> list[Owner]:
    """The timelines an event lands in, the user's first."""
    owners = []
    if event.user_id is not None:
        owners.append(Owner("u", event.user_id))
    if event.session_id is not None:
        owners.append(Owner("s", event.session_id))
    return owners


def merge_sources(user_id: str, from_user_id: str | None, from_session_id: str | None) -> list[Owner]:
    """The timelines a merge empties. Never the target itself: merging a user into itself would delete it."""
    sources = []
    if from_user_id is not None and from_user_id != user_id:
        sources.append(Owner("u", from_user_id))
    if from_session_id is not None:
        sources.append(Owner("s", from_session_id))
    return sources
