"""A Redis that is silent, dead, restarted or talks nonsense: StoreUnavailable, nothing else; never another's reply."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest
from state_servers import Server, until_async

from service.errors import StoreUnavailable
from service.state.redis_store import RedisStore
from service.state.store import Event

T = 5.0
SHORT = 0.02


def own(user: str, number: int = 0) -> Event:
    """An event that tells whose it is."""
    return Event(f"{user}-{number}", "click", f"item-of-{user}", float(number), user, f"session-of-{user}")


async def answers(store: RedisStore) -> bool:
    try:
        await store.ping()
    except StoreUnavailable:
        return False
    return True


async def test_a_silent_redis_is_unavailable_and_serves_again_when_it_wakes(own_server, connect) -> None:
    store = connect(own_server.url, probe_s=0.01)
    await store.append([own("u")], timeout_s=T)
    own_server.pause()
    with pytest.raises(StoreUnavailable, match="20 ms"):
        await store.read("u", None, timeout_s=SHORT)
    with pytest.raises(StoreUnavailable):
        await store.append([own("u", 1)], timeout_s=SHORT)
    own_server.resume()
    await until_async(lambda: answers(store))
    assert (await store.read("u", None, timeout_s=T)).user[0] == own("u")
    assert await store.append([own("u", 1)], timeout_s=T) in ([True], [False])  # the first try may have arrived
    assert len((await store.read("u", None, timeout_s=T)).user) == 2


async def test_a_silent_redis_costs_no_request_its_timeout_once_it_is_known(own_server, connect) -> None:
    store = connect(own_server.url, socket_timeout_s=0.05, probe_s=0.01)
    await store.append([own("u")], timeout_s=T)
    await store.ping()
    own_server.pause()
    with pytest.raises(StoreUnavailable):
        await store.read("u", None, timeout_s=T)
    before = store.counters
    for _ in range(200):
        with pytest.raises(StoreUnavailable, match="away"):
            await store.read("u", None, timeout_s=3600.0)  # waiting for any of these would never end
    assert store.counters.n_timeouts == before.n_timeouts
    assert store.counters.n_rejected == before.n_rejected + 200


async def test_a_killed_redis_is_unavailable_and_serves_again_after_its_restart(own_server, connect) -> None:
    store = connect(own_server.url, probe_s=0.01)
    await store.append([own("u")], timeout_s=T)
    own_server.kill()
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await store.read("u", None, timeout_s=T)
        with pytest.raises(StoreUnavailable):
            await store.append([own("u")], timeout_s=T)
    own_server.start()
    await until_async(lambda: answers(store))
    assert await store.append([own("u")], timeout_s=T) == [True]
    assert (await store.read("u", None, timeout_s=T)).user == [own("u")]


async def test_a_redis_that_hung_up_between_requests_costs_none_of_them(server, connect) -> None:
    store = connect(server.url)
    await store.append([own("u")], timeout_s=T)
    await store.read("u", None, timeout_s=T)
    with server.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    await asyncio.sleep(0)  # let the loop see the closed sockets
    assert (await store.read("u", None, timeout_s=T)).user == [own("u")]
    assert await store.append([own("u", 1)], timeout_s=T) == [True]


async def test_a_redis_that_was_never_there_is_unavailable(tmp_path, connect) -> None:
    store = connect(f"unix://{tmp_path}/nobody.sock")
    for operation in (
        lambda: store.read("u", "s", timeout_s=T),
        lambda: store.append([own("u")], timeout_s=T),
        lambda: store.merge("u", from_session_id="s"),
        lambda: store.export_user("u"),
        lambda: store.delete_user("u"),
        lambda: store.delete_session("s"),
        lambda: store.ping(),
    ):
        with pytest.raises(StoreUnavailable):
            await operation()


async def test_a_closed_store_says_so(server) -> None:
    store = RedisStore(server.url)
    await store.ping()
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.read("u", None, timeout_s=T)


async def test_a_value_that_cannot_be_sent_fails_its_own_caller_only(server, connect) -> None:
    store = connect(server.url)
    await store.append([own("u")], timeout_s=T)
    good, bad = await asyncio.gather(
        store.read("u", None, timeout_s=T), store.read("\ud800", None, timeout_s=T), return_exceptions=True
    )
    assert not isinstance(good, BaseException)
    assert good.user == [own("u")]
    assert isinstance(bad, UnicodeEncodeError)
    assert store.counters.n_lost_connections == 0


async def test_no_reader_ever_sees_another_users_events(own_server: Server, connect) -> None:
    """60 readers of their own user give up at random or are cancelled, while Redis falls asleep again and again."""
    store = connect(own_server.url, socket_timeout_s=0.03, probe_s=0.001)
    users = [f"user{number}" for number in range(60)]
    await store.append([own(user, number) for user in users for number in range(5)], timeout_s=T)
    chance = random.Random(5)
    outcomes = {"read": 0, "unavailable": 0, "cancelled": 0}
    stop = asyncio.Event()

    async def reader(user: str) -> None:
        while not stop.is_set():
            read = asyncio.ensure_future(
                store.read(user, f"session-of-{user}", timeout_s=chance.choice([0.0005, 0.01, 1]))
            )
            if chance.random() < 0.2:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                read.cancel()
            try:
                history = await read
            except StoreUnavailable:
                outcomes["unavailable"] += 1
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                outcomes["cancelled"] += 1
            else:
                outcomes["read"] += 1
                assert {event.item_id for event in history.user + history.session} == {f"item-of-{user}"}
                assert len(history.user) == len(history.session) == 5

    async def reads_reach(count: int) -> bool:
        return outcomes["read"] >= count or any(task.done() for task in tasks)

    async def lost_reach(count: int) -> bool:
        return store.counters.n_lost_connections >= count or any(task.done() for task in tasks)

    tasks = [asyncio.create_task(reader(user)) for user in users]
    for _ in range(6):
        await until_async(lambda target=outcomes["read"] + 200: reads_reach(target))
        own_server.pause()
        await until_async(lambda target=store.counters.n_lost_connections + 1: lost_reach(target))
        own_server.resume()
    await until_async(lambda target=outcomes["read"] + 500: reads_reach(target))
    stop.set()
    await asyncio.gather(*tasks)
    assert outcomes["unavailable"] > 0
    assert outcomes["cancelled"] > 0


@contextlib.asynccontextmanager
async def impostor(path: str, says: bytes, *, then_hangs_up: bool) -> AsyncIterator[None]:
    """Something that answers whatever it is sent with the same bytes."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                writer.write(says)
                await writer.drain()
                if then_hangs_up:
                    break
        writer.close()

    listener = await asyncio.start_unix_server(talk, path)
    try:
        yield
    finally:
        listener.close()
        await listener.wait_closed()


@pytest.mark.parametrize("then_hangs_up", [False, True])
@pytest.mark.parametrize(
    "says",
    [
        b"",
        b"\x00\xff\xfe nonsense\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"*4\r\n$3\r\nabc\r\n",
        b"$-5\r\nxx\r\n",
        b"+OK\r\n" * 3,
        b":7\r\n" * 3,
        b"$-1\r\n" * 3,
        b"*1\r\n:1\r\n" * 3,
        b"-LOADING Redis is loading the dataset in memory\r\n" * 3,
        b"-NOAUTH Authentication required.\r\n" * 3,
        b"-MOVED 1 127.0.0.1:1\r\n" * 3,
        b"-NOSCRIPT No matching script.\r\n" * 3,
    ],
)
async def test_whatever_an_impostor_says_is_unavailable(own_socket, connect, says: bytes, then_hangs_up: bool) -> None:
    async with impostor(own_socket, says, then_hangs_up=then_hangs_up):
        store = connect(f"unix://{own_socket}", socket_timeout_s=0.02, probe_s=0.005, admin_timeout_s=0.05)
        for operation in (
            lambda: store.read("u", "s", timeout_s=0.05),
            lambda: store.append([own("u")], timeout_s=0.05),
            lambda: store.merge("u", from_session_id="s"),
            lambda: store.export_user("u"),
            lambda: store.delete_user("u"),
        ):
            with pytest.raises(StoreUnavailable):
                await operation()
        await store.close()
