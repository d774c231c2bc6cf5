"""Requests of a walk through sessions: an event, then a recommendation, then the next item."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import orjson

from loadtest.errors import InputError
from loadtest.workload import Session

EVENTS_PATH = "/v1/events"
RECOMMEND_PATH = "/v1/recommend"
# What the service keeps and accepts per user and request.
MAX_HISTORY = 500

State = Literal["stored", "request"]


@dataclass(frozen=True, slots=True)
class Call:
    """One request to send. `events` are the (user_id, event_id) pairs it stores."""

    kind: Literal["events", "recommend"]
    path: str
    body: bytes
    events: tuple[tuple[str | None, str], ...] = ()


@dataclass(frozen=True)
class Traffic:
    """How sessions become requests.

    `state` is where the history lives: `stored` posts every look as an event and asks by user and session id,
    `request` sends the whole history with each recommendation and stores nothing.
    """

    state: State = "stored"
    scenario: str | None = None
    count: int = 10
    event_type: str = "view"

    def __post_init__(self) -> None:
        if self.state not in ("stored", "request"):
            raise InputError(f"state is {self.state!r}; expected 'stored' or 'request'")

    def calls(self, session: Session) -> Iterator[Call]:
        """The session's requests in order."""
        if self.state == "stored" and session.past:
            yield self.event_call(session, session.past[-MAX_HISTORY:], first=0)
        for position in range(len(session.item_ids)):
            if self.state == "stored":
                yield self.event_call(session, [session.item_ids[position]], first=len(session.past) + position)
            yield self.recommend_call(session, position)

    def event_call(self, session: Session, item_ids: list[str] | tuple[str, ...], *, first: int) -> Call:
        """Stores looks at `item_ids`; `first` numbers them within the session, which makes their event ids."""
        owner = _owner(session)
        events = [
            {"event_id": f"{session.session_id}-{first + n}", "type": self.event_type, "item_id": item_id, **owner}
            for n, item_id in enumerate(item_ids)
        ]
        stored = tuple((session.user_id, str(event["event_id"])) for event in events)
        return Call("events", EVENTS_PATH, orjson.dumps({"events": events}), stored)

    def recommend_call(self, session: Session, position: int) -> Call:
        """Asks what should follow the item at `position` of the visit."""
        body: dict[str, Any] = {"count": self.count}
        if self.scenario is not None:
            body["scenario"] = self.scenario
        if self.state == "stored":
            body |= _owner(session)
        else:
            seen = (*session.past, *session.item_ids[: position + 1])[-MAX_HISTORY:]
            body["history"] = [{"item_id": item_id} for item_id in seen]
        return Call("recommend", RECOMMEND_PATH, orjson.dumps(body))

    def describe(self) -> dict[str, object]:
        return {"state": self.state, "scenario": self.scenario, "count": self.count, "event_type": self.event_type}


def interleave(traffic: Traffic, sessions: Iterator[Session], *, n_active: int, seed: int) -> Iterator[Call]:
    """Requests of `n_active` sessions that run side by side; each session's own requests stay in order.

    A finished session is replaced by the next one. The choice of who is next is seeded.
    """
    rng = np.random.default_rng(seed)
    active = [traffic.calls(next(sessions)) for _ in range(n_active)]
    while True:
        for slot in rng.integers(n_active, size=1024):
            call = next(active[slot], None)
            while call is None:
                active[slot] = traffic.calls(next(sessions))
                call = next(active[slot], None)
            yield call


def _owner(session: Session) -> dict[str, str]:
    owner = {"session_id": session.session_id}
    if session.user_id is not None:
        owner["user_id"] = session.user_id
    return owner
