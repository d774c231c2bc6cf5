"""Item ids learnt from the service itself, where no file with them is at hand."""

from __future__ import annotations

from loadtest.client import Client, NoReply
from loadtest.errors import ServiceError
from loadtest.ids import check_ids
from loadtest.traffic import RECOMMEND_PATH

_MAX_COUNT = 200


async def discover_item_ids(client: Client, *, wanted: int = 2_000, scenario: str | None = None) -> list[str]:
    """Up to `wanted` item ids: what is recommended to a stranger, then what follows each of those, and so on.

    In order of discovery, which is near enough to popularity for a synthetic workload. Ends early when nothing new
    comes up in 50 questions.

    Raises:
        ServiceError: the service does not answer, or recommends nothing at all.
    """
    found: dict[str, None] = dict.fromkeys(await _recommended(client, [], scenario))
    if not found:
        raise ServiceError(f"{client.url}{RECOMMEND_PATH}: no item for an empty history; give item ids by file instead")
    asked, idle = 0, 0
    while len(found) < wanted and asked < len(found) and idle < 50:
        item_id = list(found)[asked]
        asked += 1
        before = len(found)
        found.update(dict.fromkeys(await _recommended(client, [item_id], scenario)))
        idle = 0 if len(found) > before else idle + 1
    return check_ids(list(found)[:wanted], client.url)


async def _recommended(client: Client, history: list[str], scenario: str | None) -> list[str]:
    body = {"history": [{"item_id": item_id} for item_id in history], "count": _MAX_COUNT}
    try:
        # Plenty of time: a list that degraded to what is popular would teach nothing new.
        reply = await client.post(
            RECOMMEND_PATH,
            body if scenario is None else {**body, "scenario": scenario},
            headers="X-Request-Timeout-Ms: 5000\r\n",
        )
    except NoReply as failure:
        raise ServiceError(f"{client.url}{RECOMMEND_PATH}: no reply ({failure.reason}); is it running?") from failure
    if reply.status != 200:
        raise ServiceError(f"{client.url}{RECOMMEND_PATH}: status {reply.status}, {reply.body[:200]!r}; expected 200")
    return [item["item_id"] for item in reply.json()["items"]]
