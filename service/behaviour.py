"""What is known of the asker, as item indices: the history that the model reads, and what was seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from service.artefact.directory import Artefact
from service.state.store import Event, History

Source = Literal["redis", "memory", "request", "none"]


class Occurrence(Protocol):
    """An event of the request or of the store."""

    @property
    def item_id(self) -> str: ...
    @property
    def type(self) -> str | None: ...
    @property
    def ts(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Behaviour:
    """`items` are oldest first, repeats kept. `seen` holds every known item of both histories."""

    source: Source
    items: list[int] = field(default_factory=list)
    seen: frozenset[int] = frozenset()
    n_unknown: int = 0


def behaviour_from_request(history: Sequence[Occurrence], artefact: Artefact, now: float) -> Behaviour:
    """The history that came with the request, ordered by (ts, place in the list); an entry without ts is from now."""
    counted = artefact.manifest.history_events
    events = [event for event in history if event.type is None or event.type in counted]
    if any(event.ts is not None for event in events):
        events.sort(key=lambda event: now if event.ts is None else event.ts)
    items, n_unknown = _known(events, artefact)
    return Behaviour("request", items, frozenset(items), n_unknown)


def behaviour_from_store(history: History, artefact: Artefact, source: Source) -> Behaviour:
    """The stored history that the manifest's `history_source` asks for.

    Where the asker gave only the other id, or nothing is stored under the right one, the other history stands in: an
    anonymous visit is all that is known of its visitor.
    """
    counted = artefact.manifest.history_events
    user = [event for event in history.user if event.type in counted]
    session = [event for event in history.session if event.type in counted]
    match artefact.manifest.history_source:
        case "user":
            events: Iterable[Event] = user or session
        case "session":
            events = session or user
        case "user+session":
            # Events that named both owners are in both; the visit keeps them, so that it stays in one piece.
            in_session = {event.event_id for event in session}
            events = [event for event in user if event.event_id not in in_session] + session
    items, n_unknown = _known(events, artefact)
    seen, _ = _known([*user, *session], artefact)
    return Behaviour(source, items, frozenset(seen), n_unknown)


def _known(events: Iterable[Occurrence], artefact: Artefact) -> tuple[list[int], int]:
    indices = [artefact.index_of.get(event.item_id) for event in events]
    known = [index for index in indices if index is not None]
    return known, len(indices) - len(known)
