"""The state store in Redis 6.2 or newer, single server or behind a proxy; the layout is ready for Redis Cluster.

One owner's keys share a hash tag, so each script and each read touches one slot:

    ag:{u:<user_id>}:h   ag:{u:<user_id>}:d   ag:{u:<user_id>}:n        (see `scripts`; sessions have `s:`)

`h` and `n` live for the owner's time to live, `d` for as long as a repeated event_id is a no-op: longer than a session,
shorter than a user. Deleting an owner deletes the three by name; nothing else is ever written.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from redis.asyncio.connection import Connection, parse_url
from redis.exceptions import NoScriptError, RedisError, ResponseError

from service.errors import SettingsError, StoreUnavailable
from service.state.lane import Command, Lane
from service.state.scripts import APPEND, DROP
from service.state.store import Event, History, Limits, NewestLooks, Owner, check_events, merge_sources, owners_of

# A script runs alone in Redis: a long batch for one owner is cut so that readers wait a millisecond, not a hundred.
EVENTS_PER_SCRIPT = 200
# A pipeline is written whole before its replies are read: a longer one would look like a silent server.
ARGUMENTS_PER_TRIP = 1_000
MERGE_ROUNDS = 8

_TEXT_OR_NONE = {str, type(None)}


@dataclass(frozen=True, slots=True)
class RedisCounters:
    """What happened since start, for the metrics page."""

    n_timeouts: int  # calls that waited their whole timeout
    n_rejected: int  # calls not attempted because Redis was known to be away
    n_lost_connections: int
    n_refused: int  # commands that Redis answered with an error: out of memory, read-only replica, no permission
    n_quarantined: int  # stored values that were not ours to read: skipped, or deleted when in the way of a write


class RedisStore:
    """`StateStore` in Redis over two shared connections, one for reads and one for writes: neither delays the other.

    Args:
        url: `redis://`, `rediss://` or `unix://`, as redis-py reads them.
        limits: how much is kept, and for how long.
        socket_timeout_s: a connection that is silent for longer while an answer is due is given up. It bounds
            connecting too. Callers have their own, shorter, timeout.
        admin_timeout_s: for merge, export, delete and ping.
        probe_s: pause between attempts to reach a Redis that is away.
        clock: seconds since 1970, the time of arrival for the 24 h in which a repeated event is a no-op.

    Raises:
        SettingsError: the URL cannot be used. Whether Redis answers there is seen at the first call.
    """

    def __init__(
        self,
        url: str,
        *,
        limits: Limits | None = None,
        socket_timeout_s: float = 0.25,
        admin_timeout_s: float = 1.0,
        probe_s: float = 0.1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._limits = limits or Limits()
        self._admin_timeout_s = admin_timeout_s
        self._clock = clock
        self._n_refused = 0
        self._n_quarantined = 0
        # Ours win over options in the URL: replies must stay bytes, nothing is retried, and no command is sent that
        # nobody asked for (CLIENT SETINFO, health checks).
        ours: dict[str, Any] = {
            "socket_timeout": socket_timeout_s,
            "socket_connect_timeout": socket_timeout_s,
            "retry_on_timeout": False,
            "health_check_interval": 0,
            "decode_responses": False,
            "protocol": 2,
            "driver_info": None,
        }
        try:
            options: dict[str, Any] = {**parse_url(url), **ours}
            connection_class = options.pop("connection_class", Connection)
            self._reads, self._writes = (
                Lane(connection_class(**options), socket_timeout_s=socket_timeout_s, probe_s=probe_s) for _ in range(2)
            )
        except (ValueError, TypeError, RedisError) as error:  # never with the URL in it: that may hold a password
            raise SettingsError(f"the Redis URL cannot be used: {error}") from None

    @property
    def counters(self) -> RedisCounters:
        lanes = (self._reads, self._writes)
        return RedisCounters(
            n_timeouts=sum(lane.n_timeouts for lane in lanes),
            n_rejected=sum(lane.n_rejected for lane in lanes),
            n_lost_connections=sum(lane.n_lost for lane in lanes),
            n_refused=self._n_refused,
            n_quarantined=self._n_quarantined,
        )

    async def recall(
        self, user_id: str | None, session_id: str | None, *, timeout_s: float
    ) -> tuple[NewestLooks, NewestLooks]:
        owners = [Owner("u", user_id)] if user_id is not None else []
        if session_id is not None:
            owners.append(Owner("s", session_id))
        if not owners:
            return NewestLooks(), NewestLooks()
        newest = -self._limits.max_events
        replies = self._members(
            await self._reads.call([("ZRANGE", _keys(owner)[0], newest, -1) for owner in owners], timeout_s=timeout_s)
        )
        user = self._looks(replies[0]) if user_id is not None else NewestLooks()
        session = self._looks(replies[-1]) if session_id is not None else NewestLooks()
        return user, session

    async def read(self, user_id: str | None, session_id: str | None, *, timeout_s: float) -> History:
        user = None if user_id is None else Owner("u", user_id)
        session = None if session_id is None else Owner("s", session_id)
        owners = [owner for owner in (user, session) if owner is not None]
        if not owners:
            return History([], [])
        replies = dict(zip(owners, await self._stored(self._reads, owners, timeout_s), strict=True))
        return History(
            user=[] if user is None else self._decode(user, replies[user]),
            session=[] if session is None else self._decode(session, replies[session]),
        )

    async def append(self, events: Sequence[Event], *, timeout_s: float) -> list[bool]:
        check_events(events)
        positions: dict[Owner, list[int]] = {}
        for position, event in enumerate(events):
            for owner in owners_of(event):
                positions.setdefault(owner, []).append(position)
        cuts = [
            (owner, wanted[start : start + EVENTS_PER_SCRIPT])
            for owner, wanted in positions.items()
            for start in range(0, len(wanted), EVENTS_PER_SCRIPT)
        ]
        flags = await self._append([(owner, [events[at] for at in cut]) for owner, cut in cuts], timeout_s=timeout_s)
        new = [False] * len(events)
        for (_, cut), cut_flags in zip(cuts, flags, strict=True):
            for at, flag in zip(cut, cut_flags, strict=True):
                new[at] |= flag
        return new

    async def merge(self, user_id: str, *, from_user_id: str | None = None, from_session_id: str | None = None) -> int:
        """See `StateStore.merge`. The two owners live in different slots, so this is copy, then delete what was copied.

        Stopping anywhere in between leaves events in both places, which repeating puts right: the copy skips what the
        target holds.
        """
        target, moved = Owner("u", user_id), 0
        for source in merge_sources(user_id, from_user_id, from_session_id):
            # Another round only when events arrived at the source meanwhile; what is left after the last stays there.
            for _ in range(MERGE_ROUNDS):
                [stored] = await self._stored(self._writes, [source], self._admin_timeout_s)
                events = self._decode(source, stored)
                if events:
                    flags = await self._append(
                        [(target, events)], timeout_s=self._admin_timeout_s, look_in_history=True
                    )
                    moved += sum(flags[0])
                members = [member for member in stored[::2] if isinstance(member, bytes)]
                if await self._eval(DROP, [(source, members)], self._admin_timeout_s) == [0]:
                    break
        return moved

    async def export_user(self, user_id: str) -> list[Event]:
        return (await self.read(user_id, None, timeout_s=self._admin_timeout_s)).user

    async def delete_user(self, user_id: str) -> int:
        """See `StateStore.delete_user`. Sessions go first: a repeat after a failure still finds which ones they are."""
        owner = Owner("u", user_id)
        await self._run(self._writes, [("SET", _tombstone(user_id), repr(self._clock()))], self._admin_timeout_s)
        [stored] = await self._stored(self._writes, [owner], self._admin_timeout_s)
        sessions = {event.session_id for event in self._decode(owner, stored) if event.session_id is not None}
        removed = await self._delete([Owner("s", session) for session in sorted(sessions)]) if sessions else 0
        return removed + await self._delete([owner])

    async def deleted_at(self, user_id: str, *, timeout_s: float) -> float | None:
        [reply] = await self._reads.call([("GET", _tombstone(user_id))], timeout_s=timeout_s)
        try:
            return None if reply is None else float(reply)
        except (TypeError, ValueError):  # damage: whenever it was, it was
            return math.inf

    async def delete_session(self, session_id: str) -> int:
        return await self._delete([Owner("s", session_id)])

    async def ping(self) -> None:
        await asyncio.gather(
            *(self._run(lane, [("PING",)], self._admin_timeout_s) for lane in (self._reads, self._writes))
        )

    async def close(self) -> None:
        await asyncio.gather(self._reads.close(), self._writes.close())

    async def _stored(self, lane: Lane, owners: Sequence[Owner], timeout_s: float) -> list[list[bytes]]:
        """Per owner [member, score, member, score, ...], oldest first; a key of another type counts as empty."""
        newest = -self._limits.max_events
        replies = await lane.call(
            [("ZRANGE", _keys(owner)[0], newest, -1, "WITHSCORES") for owner in owners], timeout_s=timeout_s
        )
        for reply in self._members(replies):
            _expect(len(reply) % 2 == 0, "members with scores", reply)
        return replies

    def _members(self, replies: list[Any]) -> list[list[bytes]]:
        """The same lists, once they are lists; a key of another type counts as empty."""
        for position, reply in enumerate(replies):
            if isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE"):
                self._n_quarantined += 1
                replies[position] = []
        for reply in self._accepted(replies):
            _expect(isinstance(reply, list), "members", reply)
        return replies

    def _looks(self, members: Sequence[bytes]) -> NewestLooks:
        """Members of one timeline as columns. All are parsed as one document; where one is bad, one by one."""
        if not members:
            return NewestLooks()
        try:
            rows = orjson.loads(b"[" + b",".join([member[13:] for member in members]) + b"]")
            event_ids, kinds, item_ids, others = zip(*rows, strict=True)
            # Joining refuses whatever is not text.
            "".join((*event_ids, *kinds, *item_ids))
            sound = len(rows) == len(members) and {type(other) for other in others} <= _TEXT_OR_NONE
        except (ValueError, TypeError):
            sound = False
        if not sound:
            return self._looks_one_by_one(members)
        return NewestLooks(event_ids, kinds, item_ids)

    def _looks_one_by_one(self, members: Sequence[bytes]) -> NewestLooks:
        rows = []
        for member in members:
            try:
                event_id, kind, item_id, other = orjson.loads(member[13:])
                sound = type(event_id) is type(kind) is type(item_id) is str and type(other) in _TEXT_OR_NONE
            except (ValueError, TypeError):
                sound = False
            if sound:
                rows.append((event_id, kind, item_id))
            else:
                self._n_quarantined += 1
        return NewestLooks(*zip(*rows, strict=True))

    def _decode(self, owner: Owner, stored: Sequence[bytes]) -> list[Event]:
        """Events of one owner, leaving out (and counting) what is not an event of ours."""
        events = []
        is_user, owner_id = owner.kind == "u", owner.id
        for member, score in zip(stored[::2], stored[1::2], strict=True):
            try:
                event_id, kind, item_id, session_id = orjson.loads(member[13:])
                ts = float(score)
                texts = type(event_id) is type(kind) is type(item_id) is str
                sound = texts and (session_id is None or type(session_id) is str) and math.isfinite(ts)
            except (ValueError, TypeError):
                sound = False
            if not sound:
                self._n_quarantined += 1
            elif is_user:
                events.append(Event(event_id, kind, item_id, ts, owner_id, session_id))
            else:
                events.append(Event(event_id, kind, item_id, ts, None, owner_id))
        return events

    async def _append(
        self, batches: Sequence[tuple[Owner, Sequence[Event]]], *, timeout_s: float, look_in_history: bool = False
    ) -> list[list[bool]]:
        limits, now = self._limits, self._clock()
        calls = []
        for owner, events in batches:
            arguments: list[str | bytes | int | float] = [
                now,
                now - limits.dedupe_s,
                limits.max_events,
                math.ceil(limits.ttl_s(owner) * 1000),
                math.ceil(limits.dedupe_s * 1000),
                limits.max_dedupe,
                int(look_in_history),
            ]
            for event in events:
                arguments += (event.event_id, event.ts, _payload(owner, event))
            calls.append((owner, arguments))
        replies = await self._eval(APPEND, calls, timeout_s)
        for (_, events), reply in zip(batches, replies, strict=True):
            _expect(isinstance(reply, list) and len(reply) == 1 + len(events), "a flag per event", reply)
            _expect(all(type(number) is int for number in reply), "numbers", reply)
        self._n_quarantined += sum(reply[0] for reply in replies)
        return [[flag == 1 for flag in reply[1:]] for reply in replies]

    async def _delete(self, owners: Sequence[Owner]) -> int:
        replies = await self._run(self._writes, [("DEL", *_keys(owner)) for owner in owners], self._admin_timeout_s)
        for reply in replies:
            _expect(type(reply) is int, "a number of keys", reply)
        return sum(replies)

    async def _eval(
        self, script: str, calls: Iterable[tuple[Owner, Sequence[str | bytes | int | float]]], timeout_s: float
    ) -> list[Any]:
        """One reply per call. One trip for each thousand arguments, and one more when Redis restarted (no script)."""
        deadline = time.monotonic() + timeout_s
        digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        replies: list[Any] = []
        for tails in _trips([(3, *_keys(owner), *arguments) for owner, arguments in calls]):
            left_s = max(deadline - time.monotonic(), 0.0)
            answers = await self._writes.call([("EVALSHA", digest, *tail) for tail in tails], timeout_s=left_s)
            missed = [position for position, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if missed:
                left_s = max(deadline - time.monotonic(), 0.0)
                commands = [("EVAL", script, *tails[position]) for position in missed]
                for position, answer in zip(missed, await self._writes.call(commands, timeout_s=left_s), strict=True):
                    answers[position] = answer
            replies += self._accepted(answers)
        return replies

    async def _run(self, lane: Lane, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        return self._accepted(await lane.call(commands, timeout_s=timeout_s))

    def _accepted(self, replies: list[Any]) -> list[Any]:
        for reply in replies:
            if isinstance(reply, ResponseError):
                self._n_refused += 1
                raise StoreUnavailable(f"Redis refused: {reply}") from reply
        return replies


def _trips(tails: Sequence[Command]) -> Iterator[list[Command]]:
    trip: list[Command] = []
    size = 0
    for tail in tails:
        if trip and size + len(tail) > ARGUMENTS_PER_TRIP:
            yield trip
            trip, size = [], 0
        trip.append(tail)
        size += len(tail)
    if trip:
        yield trip


def _expect(sound: bool, expected: str, found: object) -> None:
    if not sound:
        raise StoreUnavailable(f"Redis answered with {type(found).__name__}, expected {expected}")


def _keys(owner: Owner) -> tuple[str, str, str]:
    tag = f"ag:{{{owner.kind}:{owner.id}}}:"
    return tag + "h", tag + "d", tag + "n"


def _tombstone(user_id: str) -> str:
    """A key that can be found by who knows the id, and tells it to nobody else."""
    return f"ag:t:{hashlib.blake2b(user_id.encode(), digest_size=16).hexdigest()}"


def _payload(owner: Owner, event: Event) -> bytes:
    """What is stored of an event beside its `ts`. A session's copy leaves out the user: see `History`."""
    return orjson.dumps((event.event_id, event.type, event.item_id, event.session_id if owner.kind == "u" else None))
