"""What every state store promises, run on each of them."""

from __future__ import annotations

import asyncio
import math

import pytest

from service.state.store import DAY_S, Event, Limits, NewestLooks, StateStore

T = 1.0  # s; long enough that only a fault reaches it


def event(event_id: str, ts: float = 1.0, *, user: str | None = "u", session: str | None = None) -> Event:
    return Event(event_id, "click", f"item-of-{event_id}", ts, user, session)


def ids(events: list[Event]) -> list[str]:
    return [event.event_id for event in events]


async def user_ids(store: StateStore, user: str = "u") -> list[str]:
    return ids((await store.read(user, None, timeout_s=T)).user)


async def session_ids(store: StateStore, session: str = "s") -> list[str]:
    return ids((await store.read(None, session, timeout_s=T)).session)


async def test_an_unknown_owner_has_an_empty_history(store: StateStore) -> None:
    history = await store.read("nobody", "nowhere", timeout_s=T)
    assert history.user == []
    assert history.session == []


async def test_reading_nobody_is_an_empty_history(store: StateStore) -> None:
    history = await store.read(None, None, timeout_s=T)
    assert history.user == history.session == []


async def test_an_event_comes_back_as_it_was(store: StateStore) -> None:
    given = Event("e1", "purchase", "i:7@x.y-z_", 1795200012.123456, "u", "s")
    assert await store.append([given], timeout_s=T) == [True]
    assert (await store.read("u", None, timeout_s=T)).user == [given]


async def test_a_session_does_not_store_who_the_person_was(store: StateStore) -> None:
    await store.append([Event("e1", "click", "i", 1.0, "u", "s")], timeout_s=T)
    assert (await store.read(None, "s", timeout_s=T)).session == [Event("e1", "click", "i", 1.0, None, "s")]


async def test_text_of_any_kind_comes_back_as_it_was(store: StateStore) -> None:
    given = Event('e"1\n', "cl|ck", "\u00fcn\u00efc\u00f6de \U0001f600 \x00", -2.5, "u}{\u00e9", 's"')
    await store.append([given], timeout_s=T)
    assert (await store.read("u}{\u00e9", None, timeout_s=T)).user == [given]


async def test_events_are_ordered_by_ts_then_by_arrival(store: StateStore) -> None:
    await store.append([event("late", 30), event("tie-1", 20)], timeout_s=T)
    await store.append([event("early", 10), event("tie-2", 20)], timeout_s=T)
    assert await user_ids(store) == ["early", "tie-1", "tie-2", "late"]


async def test_arrival_decides_between_equal_ts_beyond_nine_events(store: StateStore) -> None:
    names = [f"e{number}" for number in range(120)]
    await store.append([event(name) for name in names], timeout_s=T)
    assert await user_ids(store) == names


async def test_ts_a_microsecond_apart_are_told_apart(store: StateStore) -> None:
    await store.append([event("second", 1795200012.000002), event("first", 1795200012.000001)], timeout_s=T)
    assert await user_ids(store) == ["first", "second"]


async def test_the_same_item_twice_is_two_events(store: StateStore) -> None:
    await store.append([Event("e1", "click", "i", 1, "u"), Event("e2", "click", "i", 2, "u")], timeout_s=T)
    assert await user_ids(store) == ["e1", "e2"]


async def test_a_repeated_event_id_is_a_no_op(store: StateStore) -> None:
    assert await store.append([event("e1"), event("e2")], timeout_s=T) == [True, True]
    assert await store.append([event("e2", 99), event("e3")], timeout_s=T) == [False, True]
    assert await user_ids(store) == ["e1", "e2", "e3"]


async def test_a_repeat_within_one_call_is_a_no_op(store: StateStore) -> None:
    assert await store.append([event("e1"), event("e1", 2)], timeout_s=T) == [True, False]
    assert await user_ids(store) == ["e1"]


async def test_a_repeat_counts_again_after_24_hours(make_store, clock) -> None:
    store = make_store(Limits())
    await store.append([event("e1")], timeout_s=T)
    clock.now += DAY_S - 0.001
    assert await store.append([event("e1", 2)], timeout_s=T) == [False]
    clock.now += 0.001
    assert await store.append([event("e1", 3)], timeout_s=T) == [True]


async def test_the_memory_for_repeats_is_bounded_by_the_newest(make_store, clock) -> None:
    store = make_store(Limits(max_dedupe=2))
    for name in ("e1", "e2", "e3"):
        await store.append([event(name)], timeout_s=T)
        clock.now += 1
    assert await store.append([event("e2")], timeout_s=T) == [False]
    assert await store.append([event("e1")], timeout_s=T) == [True]


async def test_one_persons_event_id_does_not_block_anothers(store: StateStore) -> None:
    assert await store.append([event("e1", user="a"), event("e1", user="b")], timeout_s=T) == [True, True]
    assert await user_ids(store, "a") == await user_ids(store, "b") == ["e1"]


async def test_a_user_and_a_session_of_the_same_name_are_two_owners(store: StateStore) -> None:
    await store.append([event("e1", user="x"), event("e2", user=None, session="x")], timeout_s=T)
    history = await store.read("x", "x", timeout_s=T)
    assert (ids(history.user), ids(history.session)) == (["e1"], ["e2"])


async def test_an_event_is_new_while_one_of_its_owners_lacks_it(store: StateStore) -> None:
    await store.append([event("e1", user=None, session="s")], timeout_s=T)
    assert await store.append([event("e1", user="u", session="s")], timeout_s=T) == [True]
    assert await user_ids(store) == await session_ids(store) == ["e1"]
    assert await store.append([event("e1", user="u", session="s")], timeout_s=T) == [False]


async def test_only_the_newest_events_are_kept(make_store) -> None:
    store = make_store(Limits(max_events=3))
    await store.append([event("e4", 4), event("e1", 1), event("e3", 3), event("e2", 2)], timeout_s=T)
    assert await user_ids(store) == ["e2", "e3", "e4"]
    assert await store.append([event("e0", 0)], timeout_s=T) == [True]  # accepted, and at once too old to keep
    assert await user_ids(store) == ["e2", "e3", "e4"]


async def test_500_events_are_kept_by_default(store: StateStore) -> None:
    await store.append([event(f"e{number}", number) for number in range(501)], timeout_s=T)
    assert await user_ids(store) == [f"e{number}" for number in range(1, 501)]


async def test_one_append_serves_many_owners(store: StateStore) -> None:
    batch = [event(f"e{number}", user=f"u{number}", session=f"s{number % 2}") for number in range(6)]
    assert await store.append(batch, timeout_s=T) == [True] * 6
    assert await user_ids(store, "u4") == ["e4"]
    assert await session_ids(store, "s1") == ["e1", "e3", "e5"]


async def test_appending_nothing_is_nothing(store: StateStore) -> None:
    assert await store.append([], timeout_s=T) == []


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Event("e1", "click", "i", 1.0), "neither user_id nor session_id"),
        (Event("e1", "click", "i", math.nan, "u"), "ts nan"),
        (Event("e1", "click", "i", math.inf, "u"), "ts inf"),
        (Event("e1", "click", "i\ud800", 1.0, "u"), "not Unicode"),
    ],
)
async def test_an_event_no_store_can_place_stops_the_whole_append(store: StateStore, bad: Event, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        await store.append([event("good"), bad], timeout_s=T)
    assert await user_ids(store) == []


async def test_many_writers_at_once_lose_nothing(store: StateStore) -> None:
    results = await asyncio.gather(*(store.append([event(f"e{number}", 5)], timeout_s=T) for number in range(100)))
    assert results == [[True]] * 100
    assert sorted(await user_ids(store)) == sorted(f"e{number}" for number in range(100))


async def test_merge_moves_a_session_into_the_user_in_order(store: StateStore) -> None:
    await store.append([event("u1", 1), event("u3", 3)], timeout_s=T)
    await store.append([event("s2", 2, user=None, session="s"), event("s4", 4, user=None, session="s")], timeout_s=T)
    assert await store.merge("u", from_session_id="s") == 2
    history = await store.read("u", "s", timeout_s=T)
    assert ids(history.user) == ["u1", "s2", "u3", "s4"]
    assert history.user[1] == Event("s2", "click", "item-of-s2", 2, "u", "s")
    assert history.session == []


async def test_merge_does_not_double_an_event_that_carried_both_ids(store: StateStore) -> None:
    await store.append([event("both", 1, user="u", session="s"), event("s2", 2, user=None, session="s")], timeout_s=T)
    assert await store.merge("u", from_session_id="s") == 1
    assert await user_ids(store) == ["both", "s2"]


async def test_merge_does_not_double_an_event_whose_24_hours_are_over(make_store, clock) -> None:
    store = make_store(Limits(session_ttl_s=10 * DAY_S))
    await store.append([event("both", user="u", session="s")], timeout_s=T)
    clock.now += 2 * DAY_S
    await store.append([event("later", 2)], timeout_s=T)
    assert await store.merge("u", from_session_id="s") == 0
    assert await user_ids(store) == ["both", "later"]


async def test_merge_takes_another_user_and_a_session_at_once(store: StateStore) -> None:
    await store.append([event("old", 1, user="old"), event("s", 2, user=None, session="s")], timeout_s=T)
    assert await store.merge("u", from_user_id="old", from_session_id="s") == 2
    assert await user_ids(store) == ["old", "s"]
    assert await user_ids(store, "old") == []
    assert (await store.export_user("u"))[0].user_id == "u"


async def test_merge_again_moves_nothing_and_loses_nothing(store: StateStore) -> None:
    await store.append([event("s1", user=None, session="s")], timeout_s=T)
    assert [await store.merge("u", from_session_id="s") for _ in range(3)] == [1, 0, 0]
    assert await user_ids(store) == ["s1"]


async def test_merging_a_user_into_itself_changes_nothing(store: StateStore) -> None:
    await store.append([event("e1")], timeout_s=T)
    assert await store.merge("u", from_user_id="u") == 0
    assert await user_ids(store) == ["e1"]


async def test_merging_from_nobody_creates_nothing(store: StateStore) -> None:
    assert await store.merge("u", from_user_id="nobody", from_session_id="nowhere") == 0
    assert await store.delete_user("u") == 0


async def test_merge_keeps_the_newest(make_store) -> None:
    store = make_store(Limits(max_events=3))
    await store.append([event("u1", 1), event("u3", 3), event("u5", 5)], timeout_s=T)
    await store.append([event("s2", 2, user=None, session="s"), event("s4", 4, user=None, session="s")], timeout_s=T)
    await store.merge("u", from_session_id="s")
    assert await user_ids(store) == ["u3", "s4", "u5"]


async def test_export_gives_everything_of_the_user(store: StateStore) -> None:
    given = [event("e1", 1), event("e2", 2, session="s")]
    await store.append([*given, event("other", user="v")], timeout_s=T)
    assert await store.export_user("u") == given
    assert await store.export_user("nobody") == []


async def test_delete_user_forgets_the_user_and_their_sessions_and_nobody_else(store: StateStore) -> None:
    await store.append([event("e1", session="s"), event("e2", user="v", session="t")], timeout_s=T)
    assert await store.delete_user("u") > 0
    history = await store.read("u", "s", timeout_s=T)
    assert history.user == history.session == []
    assert await user_ids(store, "v") == await session_ids(store, "t") == ["e2"]
    assert await store.delete_user("u") == 0


async def test_a_deletion_is_remembered_though_nothing_was_stored(store: StateStore) -> None:
    assert await store.deleted_at("u", timeout_s=T) is None
    await store.delete_user("u")
    first = await store.deleted_at("u", timeout_s=T)
    assert first is not None
    await store.delete_user("u")
    again = await store.deleted_at("u", timeout_s=T)
    assert again is not None
    assert again >= first
    assert await store.deleted_at("v", timeout_s=T) is None


async def test_delete_session_leaves_the_user(store: StateStore) -> None:
    await store.append([event("e1", session="s")], timeout_s=T)
    assert await store.delete_session("s") > 0
    assert await session_ids(store) == []
    assert await user_ids(store) == ["e1"]
    assert await store.delete_session("s") == 0


async def test_a_deleted_user_starts_anew(store: StateStore) -> None:
    await store.append([event("e1")], timeout_s=T)
    await store.delete_user("u")
    assert await store.append([event("e1")], timeout_s=T) == [True]
    assert await user_ids(store) == ["e1"]


async def test_ping_returns(store: StateStore) -> None:
    await store.ping()


async def test_recalling_is_reading_without_the_times(store: StateStore) -> None:
    await store.append(
        [event("b", 2.0, session="s"), event("a", 1.0), event("c", 3.0, user=None, session="s")], timeout_s=T
    )
    history = await store.read("u", "s", timeout_s=T)

    user, session = await store.recall("u", "s", timeout_s=T)

    for looks, events in ((user, history.user), (session, history.session)):
        assert list(looks.event_ids) == ids(events)
        assert list(looks.types) == [event.type for event in events]
        assert list(looks.item_ids) == [event.item_id for event in events]
    assert list(user.event_ids) == ["a", "b"]
    assert list(session.event_ids) == ["b", "c"]


async def test_of_nobody_and_of_strangers_nothing_is_recalled(store: StateStore) -> None:
    for user, session in ((None, None), ("nobody", None), (None, "nowhere"), ("nobody", "nowhere")):
        assert await store.recall(user, session, timeout_s=T) == (NewestLooks(), NewestLooks())
