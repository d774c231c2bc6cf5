"""Whatever is done to a store, in whatever order: it agrees with a model too simple to be wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from service.errors import StoreUnavailable
from service.state.lane import Lane
from service.state.memory import MemoryStore
from service.state.redis_store import RedisStore
from service.state.store import Event, Limits, StateStore

T = 5.0
KEPT = 4
LIMITS = Limits(max_events=KEPT)
USERS, SESSIONS = ["a", "b", "c"], ["s", "t"]


@dataclass
class Model:
    """Per owner every event ever accepted, in order of arrival; a history is looked up, never maintained."""

    accepted: dict[tuple[str, str], list[Event]] = field(default_factory=dict)

    def history(self, kind: str, name: str) -> list[Event]:
        return sorted(self.accepted.get((kind, name), []), key=lambda event: event.ts)[-KEPT:]  # sorted() is stable

    def append(self, event: Event) -> bool:
        new = False
        for kind, name in (("u", event.user_id), ("s", event.session_id)):
            if name is not None:
                stored = event if kind == "u" else replace(event, user_id=None)
                new |= self._accept(kind, name, stored)
        return new

    def merge(self, user: str, kind: str, name: str) -> int:
        if (kind, name) == ("u", user):
            return 0
        moved = [self._accept("u", user, replace(event, user_id=user)) for event in self.history(kind, name)]
        self.accepted.pop((kind, name), None)
        return sum(moved)

    def delete(self, user: str) -> None:
        for event in self.history("u", user):
            self.accepted.pop(("s", str(event.session_id)), None)
        self.accepted.pop(("u", user), None)

    def _accept(self, kind: str, name: str, event: Event) -> bool:
        log = self.accepted.setdefault((kind, name), [])
        if any(known.event_id == event.event_id for known in log):
            return False
        log.append(event)
        return True


events = st.builds(
    Event,
    event_id=st.sampled_from([f"e{number}" for number in range(12)]),
    type=st.just("click"),
    item_id=st.sampled_from(["i", "j"]),
    ts=st.sampled_from([0.0, 1.0, 1.5, 2.0, 1e9 + 1e-6, 1e9 + 2e-6]),
    user_id=st.sampled_from(USERS),
    session_id=st.none() | st.sampled_from(SESSIONS),
) | st.builds(
    Event,
    event_id=st.sampled_from([f"e{number}" for number in range(12)]),
    type=st.just("view"),
    item_id=st.just("k"),
    ts=st.floats(-1e12, 1e12),
    user_id=st.none(),
    session_id=st.sampled_from(SESSIONS),
)
steps = st.one_of(
    st.tuples(st.just("append"), st.lists(events, max_size=8)),
    st.tuples(st.just("merge_user"), st.tuples(st.sampled_from(USERS), st.sampled_from(USERS))),
    st.tuples(st.just("merge_session"), st.tuples(st.sampled_from(USERS), st.sampled_from(SESSIONS))),
    st.tuples(st.just("delete"), st.sampled_from(USERS)),
)


@pytest.fixture(scope="module", params=["memory", "redis"])
def on_store(request: pytest.FixtureRequest) -> Callable[[Callable[[StateStore], Awaitable[None]]], None]:
    """Runs a coroutine function on an empty store."""
    server = request.getfixturevalue("shared_server") if request.param == "redis" else None

    def run(scenario: Callable[[StateStore], Awaitable[None]]) -> None:
        async def body() -> None:
            store: StateStore = MemoryStore(limits=LIMITS)
            if server is not None:
                with server.client() as client:
                    client.flushall()
                store = RedisStore(server.url, limits=LIMITS)
            try:
                await scenario(store)
            finally:
                await store.close()

        asyncio.run(body())

    return run


async def assert_agree(store: StateStore, model: Model) -> None:
    for user, session in [("a", "s"), ("b", "t"), ("c", None)]:
        history = await store.read(user, session, timeout_s=T)
        assert history.user == model.history("u", user)
        assert history.session == ([] if session is None else model.history("s", session))


@seed(20260101)
@settings(max_examples=80, deadline=None)
@given(script=st.lists(steps, max_size=10))
def test_any_sequence_of_operations_agrees_with_the_model(on_store, script) -> None:
    async def scenario(store: StateStore) -> None:
        model = Model()
        for operation, argument in script:
            if operation == "append":
                expected = [model.append(event) for event in argument]
                assert await store.append(argument, timeout_s=T) == expected
            elif operation == "merge_user":
                user, source = argument
                assert await store.merge(user, from_user_id=source) == model.merge(user, "u", source)
            elif operation == "merge_session":
                user, source = argument
                assert await store.merge(user, from_session_id=source) == model.merge(user, "s", source)
            else:
                await store.delete_user(argument)
                model.delete(argument)
        await assert_agree(store, model)

    on_store(scenario)


@seed(20260102)
@settings(max_examples=40, deadline=None)
@given(batches=st.lists(st.lists(events, min_size=1, max_size=4), min_size=1, max_size=4), data=st.data())
def test_repeating_any_earlier_append_changes_nothing(on_store, batches, data) -> None:
    repeats = data.draw(st.lists(st.sampled_from(batches), max_size=4))

    async def scenario(store: StateStore) -> None:
        for batch in batches:
            await store.append(batch, timeout_s=T)
        before = [await store.read(user, session, timeout_s=T) for user in USERS for session in SESSIONS]
        for batch in repeats:
            assert await store.append(batch, timeout_s=T) == [False] * len(batch)
        assert [await store.read(user, session, timeout_s=T) for user in USERS for session in SESSIONS] == before

    on_store(scenario)


@seed(20260103)
@settings(max_examples=40, deadline=None)
@given(order=st.permutations(range(7)), cut=st.integers(0, 7))
def test_the_order_of_arrival_does_not_matter_where_ts_differ(on_store, order, cut) -> None:
    shuffled = [Event(f"e{number}", "click", "i", float(number), "a") for number in order]

    async def scenario(store: StateStore) -> None:
        await store.append(shuffled[:cut], timeout_s=T)
        await store.append(shuffled[cut:], timeout_s=T)
        history = await store.read("a", None, timeout_s=T)
        assert [event.event_id for event in history.user] == ["e3", "e4", "e5", "e6"]

    on_store(scenario)


@pytest.mark.parametrize("done_before_the_crash", [False, True])
@pytest.mark.parametrize("crash_at", range(3))  # the read of the source, the append to the user, the drop of the source
def test_a_merge_that_crashed_anywhere_is_completed_by_repeating_it(
    shared_server, monkeypatch: pytest.MonkeyPatch, crash_at: int, done_before_the_crash: bool
) -> None:
    calls = iter(range(100))
    real_call = Lane.call

    async def crashing_call(lane, commands, *, timeout_s):
        if next(calls) != crash_at:
            return await real_call(lane, commands, timeout_s=timeout_s)
        if done_before_the_crash:
            await real_call(lane, commands, timeout_s=timeout_s)
        raise StoreUnavailable("crash")

    async def body() -> None:
        with shared_server.client() as client:
            client.flushall()
        store = RedisStore(shared_server.url)
        await store.append(
            [Event("both", "click", "i", 1.0, "u", "s"), Event("own", "click", "i", 3.0, "u")], timeout_s=T
        )
        await store.append([Event("s2", "click", "i", 2.0, None, "s")], timeout_s=T)
        await store.merge("v", from_session_id="nowhere")  # both scripts are loaded: each step is one call from here on
        monkeypatch.setattr(Lane, "call", crashing_call)
        with pytest.raises(StoreUnavailable):
            await store.merge("u", from_session_id="s")
        await store.merge("u", from_session_id="s")
        history = await store.read("u", "s", timeout_s=T)
        assert [event.event_id for event in history.user] == ["both", "s2", "own"]
        assert history.session == []
        await store.close()

    asyncio.run(body())
    assert all(b"{s:s}" not in key for key in shared_server.stored_keys())
