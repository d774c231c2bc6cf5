"""What is known of the asker, as item indices: the history that the model reads, and what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from service.artefact.directory import Artefact
from service.artefact.ranker_directory import RankerArtefact
from service.ask import Told
from service.state.store import NewestLooks

Source = Literal["redis", "memory", "request", "none"]
AnyArtefact = Artefact | RankerArtefact  # both say which events count and which items they know


@dataclass(slots=True)
class Behaviour:
    """`items` are oldest first, repeats kept. `seen` holds every known item of both histories."""

    source: Source
    items: list[int] = field(default_factory=list)
    seen: frozenset[int] = frozenset()
    n_unknown: int = 0


def behaviour_from_request(told: Told, artefact: AnyArtefact, now: float) -> Behaviour:
    """The history that came with the request, ordered by (ts, place in the list); an entry without ts is from now."""
    item_ids: Sequence[str] = told.item_ids
    places: Sequence[int] = range(len(item_ids))
    if told.types is not None:
        counted = {None, *artefact.manifest.history_events}
        places = [place for place in places if told.types[place] in counted]
    if told.times is not None:
        times = [now if ts is None else ts for ts in told.times]
        places = sorted(places, key=times.__getitem__)
    if not isinstance(places, range):
        item_ids = [item_ids[place] for place in places]
    items, n_unknown = _known(item_ids, artefact)
    return Behaviour("request", items, frozenset(items), n_unknown)


def behaviour_from_store(user: NewestLooks, session: NewestLooks, artefact: AnyArtefact, source: Source) -> Behaviour:
    """The stored history that the manifest's `history_source` asks for.

    Where the asker gave only the other id, or nothing is stored under the right one, the other history stands in: an
    anonymous visit is all that is known of its visitor.
    """
    counted = artefact.manifest.history_events
    user, session = user.of_types(counted), session.of_types(counted)
    match artefact.manifest.history_source:
        case "user":
            item_ids = user.item_ids or session.item_ids
        case "session":
            item_ids = session.item_ids or user.item_ids
        case "user+session":
            # Events that named both owners are in both; the visit keeps them, so that it stays in one piece.
            item_ids = (*user.without(session.event_ids).item_ids, *session.item_ids)
    items, n_unknown = _known(item_ids, artefact)
    seen = frozenset(items)
    if user.item_ids and session.item_ids:
        seen |= {*_known(user.item_ids, artefact)[0], *_known(session.item_ids, artefact)[0]}
    return Behaviour(source, items, seen, n_unknown)


def _known(item_ids: Sequence[str], artefact: AnyArtefact) -> tuple[list[int], int]:
    known = [index for index in map(artefact.index_of.get, item_ids) if index is not None]
    return known, len(item_ids) - len(known)
