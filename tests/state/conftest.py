"""One Redis server for most tests, fresh ones for those that hurt it, and each store implementation in turn."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from state_servers import Clock, Server

from service.state.memory import MemoryStore
from service.state.redis_store import RedisStore
from service.state.store import Limits, StateStore


@pytest.fixture(scope="session")
def shared_server() -> Iterator[Server]:
    server = Server()
    yield server
    server.remove()


@pytest.fixture
def server(shared_server: Server) -> Server:
    """The shared server, empty."""
    with shared_server.client() as client:
        client.flushall()
        client.script_flush()
    return shared_server


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server for one test, to be paused and killed."""
    server = Server()
    yield server
    server.remove()


@pytest.fixture
def clock() -> Clock:
    return Clock()


MakeStore = Callable[[Limits], StateStore]


@pytest.fixture(params=["memory", "redis"])
async def make_store(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[MakeStore]:
    """Each implementation in turn, under the clock we hold."""
    made: list[StateStore] = []
    if request.param == "redis":
        url = request.getfixturevalue("server").url

    def make(limits: Limits) -> StateStore:
        store: StateStore
        store = MemoryStore(clock, limits) if request.param == "memory" else RedisStore(url, limits=limits, clock=clock)
        made.append(store)
        return store

    yield make
    for store in made:
        await store.close()


@pytest.fixture
def store(make_store: MakeStore) -> StateStore:
    return make_store(Limits())


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., RedisStore]]:
    """Makes a RedisStore and closes it after the test, however that ends."""
    made: list[RedisStore] = []

    def make(url: str, **options: Any) -> RedisStore:
        made.append(RedisStore(url, **options))
        return made[-1]

    yield make
    for store in made:
        await store.close()


@pytest.fixture
def redis_store(server: Server, connect: Callable[..., RedisStore]) -> RedisStore:
    return connect(server.url)


@pytest.fixture
def own_socket() -> Iterator[str]:
    """A path short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="ag-test-") as folder:
        yield f"{folder}/redis.sock"
