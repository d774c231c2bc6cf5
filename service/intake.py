"""Events on their way in: ids and times filled in, the impossible rejected, the rest handed to the writer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from service.api.schemas import NewEvent
from service.errors import StateUnavailable
from service.fallback import LastLists
from service.logs import new_id
from service.metrics import Metrics
from service.settings import Settings
from service.state.store import Event
from service.state.writer import Durability, EventWriter


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a list of events; `rejected` names positions in it."""

    accepted: int
    duplicates: int
    rejected: list[tuple[int, Literal["ts_too_old", "ts_in_future"]]]
    unknown_items: int
    durability: Durability | None


class EventIntake:
    """Takes events of any item: catalogues change, and an item unknown today may be in tomorrow's model."""

    def __init__(
        self,
        settings: Settings,
        writer: EventWriter,
        last_lists: LastLists,
        metrics: Metrics,
        wall_clock: Callable[[], float],
    ) -> None:
        self._settings, self._writer, self._metrics = settings, writer, metrics
        self._last_lists = last_lists
        self._wall_clock = wall_clock
        self.knows_item: Callable[[str], bool] = lambda item_id: True

    async def take(self, new_events: list[NewEvent]) -> Receipt:
        """Stores or queues the events.

        Raises:
            StateUnavailable: neither is possible; nothing was kept.
        """
        now = self._wall_clock()
        events: list[Event] = []
        rejected: list[tuple[int, Literal["ts_too_old", "ts_in_future"]]] = []
        for index, new in enumerate(new_events):
            ts = now if new.ts is None else new.ts
            if ts < now - self._settings.event_max_age_s:
                rejected.append((index, "ts_too_old"))
            elif ts > now + self._settings.event_max_ahead_s:
                rejected.append((index, "ts_in_future"))
            else:
                event_id = new.event_id or new_id()
                events.append(Event(event_id, new.type, new.item_id, ts, new.user_id, new.session_id))
        durability, duplicates = None, 0
        if events:
            try:
                written = await self._writer.append(events)
            except StateUnavailable:
                self._metrics.events.labels("refused").inc(len(events))
                raise
            durability, duplicates = written.durability, written.n_duplicates
            self._metrics.events.labels(durability).inc(len(events) - duplicates)
            self._metrics.events.labels("duplicate").inc(duplicates)
        for event in events:
            if event.user_id is not None:
                self._last_lists.note(("user", event.user_id), event.type, event.item_id)
            if event.session_id is not None:
                self._last_lists.note(("session", event.session_id), event.type, event.item_id)
        self._metrics.events.labels("rejected").inc(len(rejected))
        unknown = sum(not self.knows_item(event.item_id) for event in events)
        return Receipt(len(events) - duplicates, duplicates, rejected, unknown, durability)
