"""Where events go: into the store, or into a bounded queue in memory while the store is away.

The caller is told which, because the two promise different things: `stored` survives the death of Redis, `queued` may
be lost with this process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from service.errors import StateUnavailable, StoreUnavailable
from service.state.store import Event, StateStore, check_events

log = structlog.get_logger(__name__)

Durability = Literal["stored", "queued"]
EVENTS_PER_FLUSH = 200


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one append. Of queued events nobody knows yet which are duplicates: they count as new."""

    durability: Durability
    n_duplicates: int = 0


@dataclass(slots=True)
class WriterCounters:
    """Events since start, by what became of them. One that was queued counts again when flushed or lost."""

    n_stored: int = 0
    n_duplicates: int = 0  # a repeated event_id within 24 h, whether stored at once or flushed
    n_queued: int = 0
    n_flushed: int = 0
    n_refused: int = 0  # the queue was full
    n_lost: int = 0  # queued, and then the process stopped


class EventWriter:
    """Appends events in order of arrival, through an outage of the store.

    While anything is queued everything queues, so that the order stays. One task empties the queue from its old end
    once the store is back; an append that failed half-way is simply repeated, as the store ignores events it has.

    Args:
        store: what `stored` means.
        max_queued: most events kept in memory; above it `append` refuses.
        timeout_s: for one append to the store.
        retry_s: pause between two attempts to reach a store that is away.
    """

    def __init__(
        self, store: StateStore, max_queued: int = 10_000, *, timeout_s: float = 0.25, retry_s: float = 0.05
    ) -> None:
        self.counters = WriterCounters()
        self._store = store
        self._max_queued = max_queued
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._queue: deque[Event] = deque()
        self._flushing: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def n_waiting(self) -> int:
        """Events in the queue now."""
        return len(self._queue)

    async def append(self, events: Sequence[Event]) -> Written:
        """`stored` when the store has confirmed all of them, `queued` when they wait in memory.

        Raises:
            StateUnavailable: the store is away and the queue cannot take them all; none of them is queued.
            ValueError: an event that no store can place (see `check_events`); nothing was written.
        """
        check_events(events)
        if not self._queue:
            try:
                new = await self._store.append(events, timeout_s=self._timeout_s)
            except StoreUnavailable as unavailable:
                log.debug("append_failed", error=str(unavailable))
            else:
                self._count(new)
                return Written("stored", len(new) - sum(new))
        if self._closed or len(self._queue) + len(events) > self._max_queued:
            self.counters.n_refused += len(events)
            raise StateUnavailable("events can be neither stored nor queued at present", retry_after_s=1)
        self._queue.extend(events)
        self.counters.n_queued += len(events)
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush(), name="event-writer-flush")
        return Written("queued")

    def forget(self, *, user_id: str | None = None, session_id: str | None = None) -> None:
        """Takes queued events back from a user (whole) or a session (its copy). For deletions: nothing returns."""
        kept: deque[Event] = deque()
        for event in self._queue:
            if session_id is not None and event.session_id == session_id:
                if event.user_id is None:
                    continue
                event = replace(event, session_id=None)
            if user_id is None or event.user_id != user_id:
                kept.append(event)
        self._queue = kept

    async def close(self, *, timeout_s: float = 2.0) -> None:
        """Flushes what it can within the time, then gives the rest up and says how many were lost."""
        self._closed = True
        if self._flushing is not None:
            # The flush is left alone until its time is up, then stopped; what it was writing may be stored, or not.
            await asyncio.wait([self._flushing], timeout=timeout_s)
            self._flushing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flushing
        if self._queue:
            self.counters.n_lost += len(self._queue)
            log.error("queued_events_lost", n_events=len(self._queue))
            self._queue.clear()

    async def _flush(self) -> None:
        """Ends when the queue is empty."""
        log.warning("events_queue", reason="the state store does not answer")
        flushed = 0
        while self._queue:
            batch = [self._queue[position] for position in range(min(len(self._queue), EVENTS_PER_FLUSH))]
            try:
                new = await self._store.append(batch, timeout_s=self._timeout_s)
            except StoreUnavailable:
                await asyncio.sleep(self._retry_s)
                continue
            for event in batch:
                if self._queue and self._queue[0] is event:  # not forgotten meanwhile
                    self._queue.popleft()
            flushed += len(batch)
            self.counters.n_flushed += len(batch)
            self._count(new)
        log.info("queued_events_stored", n_events=flushed)

    def _count(self, new: Sequence[bool]) -> None:
        self.counters.n_stored += sum(new)
        self.counters.n_duplicates += len(new) - sum(new)
