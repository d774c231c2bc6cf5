"""Histories put into a running service through its own events route."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping, Sequence

import orjson

from loadtest.errors import ServiceError

_EVENTS_A_CALL = 1_000


def store_histories(port: int, histories: Mapping[str, Sequence[str]]) -> None:
    """Stores the histories, oldest first, of users by id.

    Raises:
        ServiceError: some were not stored.
    """
    events = [
        {"event_id": f"bench-{user_id}-{n}", "type": "view", "item_id": item_id, "user_id": user_id,
         "session_id": f"s-{user_id}"}
        for user_id, items in histories.items()
        for n, item_id in enumerate(items)
    ]  # fmt: skip
    for begin in range(0, len(events), _EVENTS_A_CALL):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/events",
            orjson.dumps({"events": events[begin : begin + _EVENTS_A_CALL]}),
            {"Content-Type": "application/json", "X-Request-Timeout-Ms": "10000"},
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            told = orjson.loads(reply.read())
        if told["durability"] != "stored" or told["rejected"]:
            raise ServiceError(f"/v1/events: durability {told['durability']!r}, {len(told['rejected'])} rejected")
