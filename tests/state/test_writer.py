"""The event writer: stored, or queued in order through an outage, or refused; and it says which."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from state_servers import until_async
from structlog.testing import capture_logs

from service.errors import StateUnavailable, StoreUnavailable
from service.state.memory import MemoryStore
from service.state.redis_store import RedisStore
from service.state.store import Event
from service.state.writer import EventWriter, Written

T = 5.0


class UnsteadyStore(MemoryStore):
    """A memory store that can be away; `fails_after` appends it also forgets to answer, having stored."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.silent_after_storing = False
        self.n_attempts = 0

    async def append(self, events: Sequence[Event], *, timeout_s: float) -> list[bool]:
        self.n_attempts += 1
        await asyncio.sleep(0)
        if self.away:
            raise StoreUnavailable("away")
        result = await super().append(events, timeout_s=timeout_s)
        if self.silent_after_storing:
            self.silent_after_storing = False
            raise StoreUnavailable("no answer")
        return result


def event(number: int, ts: float = 1.0) -> Event:
    return Event(f"e{number}", "click", "i", ts, "u")


async def stored(store: MemoryStore | RedisStore) -> list[str]:
    return [event.event_id for event in await store.export_user("u")]


async def empty(writer: EventWriter) -> bool:
    return writer.n_waiting == 0


@pytest.fixture
def store() -> UnsteadyStore:
    return UnsteadyStore()


async def test_events_are_stored_while_the_store_answers(store) -> None:
    writer = EventWriter(store)
    assert await writer.append([event(1), event(2)]) == Written("stored", n_duplicates=0)
    assert await writer.append([event(2), event(3)]) == Written("stored", n_duplicates=1)
    assert await stored(store) == ["e1", "e2", "e3"]
    assert (writer.counters.n_stored, writer.counters.n_duplicates) == (3, 1)
    await writer.close()


async def test_events_queue_through_an_outage_and_are_stored_in_order(store) -> None:
    writer = EventWriter(store, retry_s=0.0)
    store.away = True
    assert [await writer.append([event(number)]) for number in range(5)] == [Written("queued")] * 5
    assert (writer.n_waiting, await stored(store)) == (5, [])
    store.away = False
    await until_async(lambda: empty(writer))
    assert await stored(store) == ["e0", "e1", "e2", "e3", "e4"]
    assert (await writer.append([event(5)])).durability == "stored"
    assert (writer.counters.n_queued, writer.counters.n_flushed, writer.counters.n_stored) == (5, 5, 6)
    await writer.close()


async def test_an_event_never_overtakes_the_queue(store) -> None:
    writer = EventWriter(store, retry_s=3600.0)
    store.away = True
    await writer.append([event(1)])
    await until_async(lambda: attempted(store, 2))  # the flush has tried and waits
    store.away = False
    assert (await writer.append([event(2)])).durability == "queued"
    assert await stored(store) == []
    await writer.close(timeout_s=0.0)


async def attempted(store: UnsteadyStore, count: int) -> bool:
    return store.n_attempts >= count


async def test_an_append_that_was_stored_without_an_answer_is_not_doubled(store) -> None:
    writer = EventWriter(store, retry_s=0.0)
    store.silent_after_storing = True
    assert (await writer.append([event(1), event(2)])).durability == "queued"
    await until_async(lambda: empty(writer))
    assert await stored(store) == ["e1", "e2"]
    assert writer.counters.n_duplicates == 2
    await writer.close()


async def test_a_full_queue_refuses_whole_batches_and_keeps_what_it_has(store) -> None:
    writer = EventWriter(store, max_queued=3, retry_s=0.0)
    store.away = True
    assert (await writer.append([event(1), event(2)])).durability == "queued"
    with pytest.raises(StateUnavailable) as refused:
        await writer.append([event(3), event(4)])
    assert (refused.value.status, refused.value.code, refused.value.retry_after_s) == (503, "state_unavailable", 1)
    assert (await writer.append([event(5)])).durability == "queued"
    store.away = False
    await until_async(lambda: empty(writer))
    assert await stored(store) == ["e1", "e2", "e5"]
    assert writer.counters.n_refused == 2
    await writer.close()


async def test_a_writer_without_a_queue_stores_or_refuses(store) -> None:
    writer = EventWriter(store, max_queued=0)
    assert (await writer.append([event(1)])).durability == "stored"
    store.away = True
    with pytest.raises(StateUnavailable):
        await writer.append([event(2)])
    await writer.close()


async def test_a_long_queue_is_flushed_in_pieces_and_in_order(store) -> None:
    writer = EventWriter(store, retry_s=0.0)
    store.away = True
    for start in range(0, 450, 50):
        await writer.append([event(number) for number in range(start, start + 50)])
    store.away = False
    await until_async(lambda: empty(writer))
    assert await stored(store) == [f"e{number}" for number in range(450)]
    await writer.close()


async def test_close_flushes_what_it_can(store) -> None:
    writer = EventWriter(store, retry_s=0.0)
    store.away = True
    await writer.append([event(1)])
    store.away = False
    with capture_logs() as logs:
        await writer.close(timeout_s=T)
    assert await stored(store) == ["e1"]
    assert writer.counters.n_lost == 0
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == []


async def test_close_says_how_many_events_are_lost(store) -> None:
    writer = EventWriter(store, retry_s=0.0)
    store.away = True
    await writer.append([event(1), event(2)])
    with capture_logs() as logs:
        await writer.close(timeout_s=0.01)
    assert {"event": "queued_events_lost", "n_events": 2, "log_level": "error"} in logs
    assert (writer.counters.n_lost, writer.n_waiting) == (2, 0)


async def test_a_closed_writer_queues_nothing(store) -> None:
    writer = EventWriter(store)
    await writer.close()
    store.away = True
    with pytest.raises(StateUnavailable):
        await writer.append([event(1)])


async def test_an_event_no_store_can_place_is_never_queued(store) -> None:
    writer = EventWriter(store)
    store.away = True
    with pytest.raises(ValueError, match="neither user_id nor session_id"):
        await writer.append([Event("e1", "click", "i", 1.0)])
    assert writer.n_waiting == 0
    await writer.close()


async def test_queued_events_of_somebody_who_is_deleted_are_never_written(store) -> None:
    writer = EventWriter(store, retry_s=0.0)
    store.away = True
    both = Event("both", "click", "i", 1.0, "v", "s")
    await writer.append([event(1), Event("anonymous", "click", "i", 1.0, None, "s"), both, event(2)])
    writer.forget(user_id="u")
    writer.forget(session_id="s")
    store.away = False
    await until_async(lambda: empty(writer))
    assert await stored(store) == []
    assert await store.export_user("v") == [Event("both", "click", "i", 1.0, "v", None)]
    assert (await store.read(None, "s", timeout_s=T)).session == []
    await writer.close()


async def test_events_queued_while_redis_is_dead_are_stored_when_it_is_back(own_server, connect) -> None:
    store = connect(own_server.url, probe_s=0.005)
    writer = EventWriter(store, retry_s=0.005)
    assert (await writer.append([event(1)])).durability == "stored"
    own_server.kill()
    assert (await writer.append([event(2)])).durability == "queued"
    assert (await writer.append([event(3)])).durability == "queued"
    own_server.start()
    await until_async(lambda: empty(writer))
    assert await stored(store) == ["e2", "e3"]  # this server keeps no file: e1 died with it
    assert (await writer.append([event(4)])).durability == "stored"
    await writer.close()


async def test_events_queue_while_redis_is_full_and_are_stored_when_there_is_room(own_server, connect) -> None:
    writer = EventWriter(connect(own_server.url), retry_s=0.005)
    with own_server.client() as client:
        client.config_set("maxmemory", 1)
        assert (await writer.append([event(1)])).durability == "queued"
        client.config_set("maxmemory", 0)
    await until_async(lambda: empty(writer))
    assert writer.counters.n_stored == 1
    await writer.close()
