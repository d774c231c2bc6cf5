"""The state store in one process's memory, for tests: bounded per owner, not in owners, and lost with the process."""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from service.state.store import Event, History, Limits, NewestLooks, Owner, check_events, merge_sources, owners_of


@dataclass(slots=True)
class _Timeline:
    entries: list[tuple[float, int, Event]] = field(default_factory=list)  # sorted by (ts, arrival)
    n_arrived: int = 0
    expires_at: float = 0.0


class MemoryStore:
    """`StateStore` with dictionaries, exact in the same ways as the Redis store and held to the same tests.

    Args:
        clock: seconds since 1970; arrivals and expiry follow it.
        limits: how much is kept, and for how long.
    """

    def __init__(self, clock: Callable[[], float] = time.time, limits: Limits | None = None) -> None:
        self._clock = clock
        self._limits = limits or Limits()
        self._timelines: dict[Owner, _Timeline] = {}
        # event_id -> first arrival, in order of arrival. Apart from the timelines because it outlives a session's.
        self._arrivals: dict[Owner, dict[str, float]] = {}
        self._tombstones: dict[str, float] = {}

    async def recall(
        self, user_id: str | None, session_id: str | None, *, timeout_s: float
    ) -> tuple[NewestLooks, NewestLooks]:
        history = await self.read(user_id, session_id, timeout_s=timeout_s)
        return _looks(history.user), _looks(history.session)

    async def read(self, user_id: str | None, session_id: str | None, *, timeout_s: float) -> History:
        return History(
            user=[] if user_id is None else self._events(Owner("u", user_id)),
            session=[] if session_id is None else self._events(Owner("s", session_id)),
        )

    async def append(self, events: Sequence[Event], *, timeout_s: float) -> list[bool]:
        check_events(events)
        return [any([self._add(owner, event) for owner in owners_of(event)]) for event in events]  # noqa: C419

    async def merge(self, user_id: str, *, from_user_id: str | None = None, from_session_id: str | None = None) -> int:
        target = Owner("u", user_id)
        moved = 0
        for source in merge_sources(user_id, from_user_id, from_session_id):
            present = {event.event_id for event in self._events(target)}
            for event in self._events(source):
                if event.event_id not in present:
                    moved += self._add(target, event)
            self._forget(source)
        return moved

    async def export_user(self, user_id: str) -> list[Event]:
        return self._events(Owner("u", user_id))

    async def delete_user(self, user_id: str) -> int:
        owner = Owner("u", user_id)
        self._tombstones[user_id] = self._clock()
        sessions = {event.session_id for event in self._events(owner)} - {None}
        return sum(self._forget(Owner("s", str(session))) for session in sessions) + self._forget(owner)

    async def deleted_at(self, user_id: str, *, timeout_s: float) -> float | None:
        return self._tombstones.get(user_id)

    async def delete_session(self, session_id: str) -> int:
        return self._forget(Owner("s", session_id))

    async def ping(self) -> None:
        return None

    async def close(self) -> None:
        return None

    def _events(self, owner: Owner) -> list[Event]:
        timeline = self._timelines.get(owner)
        if timeline is None:
            return []
        if timeline.expires_at <= self._clock():
            del self._timelines[owner]
            return []
        return [event for _, _, event in timeline.entries]

    def _add(self, owner: Owner, event: Event) -> bool:
        now, limits = self._clock(), self._limits
        arrivals = self._arrivals.setdefault(owner, {})
        while arrivals and (
            next(iter(arrivals.values())) <= now - limits.dedupe_s or len(arrivals) > limits.max_dedupe
        ):
            del arrivals[next(iter(arrivals))]
        if event.event_id in arrivals:
            return False
        self._events(owner)  # drops a timeline that has expired
        timeline = self._timelines.setdefault(owner, _Timeline())
        timeline.n_arrived += 1
        timeline.expires_at = now + limits.ttl_s(owner)
        entry = (event.ts, timeline.n_arrived, _as_stored(owner, event))
        bisect.insort(timeline.entries, entry, key=lambda entry: entry[:2])
        del timeline.entries[: -limits.max_events]
        arrivals[event.event_id] = now
        return True

    def _forget(self, owner: Owner) -> int:
        return sum(kept.pop(owner, None) is not None for kept in (self._timelines, self._arrivals))


def _looks(events: Sequence[Event]) -> NewestLooks:
    return NewestLooks(
        tuple(event.event_id for event in events),
        tuple(event.type for event in events),
        tuple(event.item_id for event in events),
    )


def _as_stored(owner: Owner, event: Event) -> Event:
    if owner.kind == "u":
        return replace(event, user_id=owner.id)
    return replace(event, user_id=None, session_id=owner.id)
