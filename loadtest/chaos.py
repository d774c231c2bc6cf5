"""Load while a dependency is killed and comes back: who noticed, for how long, and was anything lost?"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from loadtest.client import Client, NoReply
from loadtest.errors import InputError, LoadtestError
from loadtest.progress import progress, sleep_unless
from loadtest.recorder import Recorder, Reply
from loadtest.traffic import Call

_POLL_S = 0.05


@dataclass(frozen=True)
class Fault:
    """What is killed and when (seconds after the start of the load), and how its return is known.

    Exactly one of `pid` (gets SIGKILL) and `kill_command` does the harm. `restart_command` runs `down_s` later; without
    it the dependency is expected to come back by itself. `up_command` is polled from then on and exits with 0 once the
    dependency answers; without it the return is the end of `restart_command`, or the kill itself.
    """

    at_s: float
    pid: int | None = None
    kill_command: str | None = None
    down_s: float = 0.0
    restart_command: str | None = None
    up_command: str | None = None

    def __post_init__(self) -> None:
        if (self.pid is None) == (self.kill_command is None):
            raise InputError("chaos: exactly one of a pid and a kill command is needed")
        if self.at_s <= 0 or self.down_s < 0:
            raise InputError(f"chaos: the fault at {self.at_s} s, down for {self.down_s} s; expected > 0 and >= 0")

    def describe(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Timeline:
    """When the fault happened and ended, in seconds of the load; None while it has not."""

    killed_s: float | None = None
    returned_s: float | None = None
    returned_by: str = ""

    def describe(self) -> dict[str, Any]:
        return asdict(self)


async def inflict(fault: Fault, timeline: Timeline, clock: Callable[[], float], stop: asyncio.Event) -> None:
    """Kills, waits, restarts and watches for the return; fills `timeline` as it goes.

    Raises:
        LoadtestError: the process does not exist or may not be killed, or a command failed.
    """
    if not await sleep_unless(stop, fault.at_s - clock()):
        return
    if fault.pid is not None:
        try:
            os.kill(fault.pid, signal.SIGKILL)
        except OSError as error:
            raise LoadtestError(f"chaos: cannot kill process {fault.pid}: {error.strerror}") from error
    else:
        await _shell(str(fault.kill_command))
    timeline.killed_s = timeline.returned_s = clock()
    timeline.returned_by = "kill"
    if fault.restart_command is not None:
        timeline.returned_s = None
        # Also after an interrupt: what was killed is started again.
        await sleep_unless(stop, fault.down_s)
        await _shell(fault.restart_command)
        timeline.returned_s, timeline.returned_by = clock(), "restart_command"
    if fault.up_command is not None:
        timeline.returned_s = None
        while await _exit_code(fault.up_command) != 0:
            if not await sleep_unless(stop, _POLL_S):
                return
        timeline.returned_s, timeline.returned_by = clock(), "up_command"


async def _shell(command: str) -> None:
    if code := await _exit_code(command):
        raise LoadtestError(f"chaos: {command!r} ended with exit code {code}; expected 0")


async def _exit_code(command: str) -> int:
    # Its own session: a Ctrl-C meant for the load must not stop a server that the command has just started.
    process = await asyncio.create_subprocess_shell(
        command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    return await process.wait()


@dataclass
class Ledger:
    """Events by what the service promised about them."""

    stored: dict[str, set[str]] = field(default_factory=dict)  # user_id -> event ids answered `stored`
    queued: int = 0
    refused: int = 0

    def note(self, call: Call, reply: Reply, done_s: float) -> None:
        """Books one reply; the signature is that of an open loop's `on_reply`."""
        if call.kind != "events":
            return
        if not reply.ok:
            self.refused += len(call.events)
        elif reply.durability == "queued":
            self.queued += len(call.events)
        elif reply.durability == "stored":
            for user_id, event_id in call.events:
                if user_id is not None:
                    self.stored.setdefault(user_id, set()).add(event_id)


async def verify_stored(client: Client, ledger: Ledger, *, stop: asyncio.Event, concurrency: int = 8) -> dict[str, Any]:
    """Looks up every user who has an event answered `stored` and counts the events that are not there.

    `complete` is false after an interrupt or where a look-up failed: those users are `unreadable`, not lost.
    """
    users = iter(ledger.stored)
    missing: list[dict[str, Any]] = []
    checked = {"users": 0, "events": 0}
    unreadable: list[str] = []

    async def work(update: Callable[[float, str], None]) -> None:
        for user_id in users:
            if stop.is_set():
                return
            found = await _exported_ids(client, user_id)
            if found is None:
                unreadable.append(user_id)
                continue
            checked["users"] += 1
            checked["events"] += len(ledger.stored[user_id])
            if lost := ledger.stored[user_id] - found:
                missing.append({"user_id": user_id, "event_ids": sorted(lost)})
            update(checked["users"], "users")

    with progress("looking up stored events", len(ledger.stored)) as update:
        async with asyncio.TaskGroup() as workers:
            for _ in range(concurrency):
                workers.create_task(work(update))
    return {
        "events_stored": sum(map(len, ledger.stored.values())),
        "events_queued": ledger.queued,
        "events_refused": ledger.refused,
        "events_checked": checked["events"],
        "users_checked": checked["users"],
        "users_unreadable": len(unreadable),
        "events_missing": sum(len(entry["event_ids"]) for entry in missing),
        "missing": sorted(missing, key=lambda entry: entry["user_id"])[:100],
        "complete": checked["users"] == len(ledger.stored),
    }


async def _exported_ids(client: Client, user_id: str) -> set[str] | None:
    """Event ids of a user's export, tried three times; None if it cannot be read."""
    for _ in range(3):
        try:
            reply = await client.get(f"/v1/users/{quote(user_id, safe='')}/export", timeout_s=10)
        except NoReply:
            continue
        if reply.status == 404:
            return set()
        if reply.status == 200:
            return {str(event["event_id"]) for event in reply.json()["events"]}
    return None


def recovery(recorder: Recorder, timeline: Timeline, *, back_within_s: float) -> dict[str, Any]:
    """What the fault did to the recommend replies, in seconds of the load.

    `back_to_model_s` is the time from the return to the first reply of tier `model`, not degraded, among the requests
    planned after it. Where only the kill is known, such a reply counts once the fault was noticed. `last_degraded_s` is
    the time from the return to the last degraded or failed reply, and `degraded_share_after_promise` the share of those
    among the requests planned `back_within_s` after the return and later.
    """
    view = recorder.view("recommend")
    good = view.ok & (view.tier == "model") & ~view.degraded
    bad = ~view.ok | view.degraded
    facts: dict[str, Any] = {
        "recommend_5xx": int((view.status >= 500).sum()),
        "recommend_without_reply": int((view.status == 0).sum()),
        "recommend_errors": int((~view.ok).sum()),
        "recommend_degraded": int(view.degraded.sum()),
        "degraded_share_before_kill": None,
        "first_degraded_after_kill_s": None,
        "back_to_model_s": None,
        "last_degraded_s": None,
        "degraded_share_after_promise": None,
    }
    if timeline.killed_s is None:
        return facts
    before = view.planned_s < timeline.killed_s
    facts["degraded_share_before_kill"] = _share(bad[before])
    noticed = view.done_s[bad & ~before]
    if len(noticed):
        facts["first_degraded_after_kill_s"] = round(float(noticed.min()) - timeline.killed_s, 4)
    if timeline.returned_s is None:
        return facts
    returned_s = timeline.returned_s
    from_s = float(noticed.min()) if timeline.returned_by == "kill" and len(noticed) else returned_s
    back = view.done_s[good & (view.planned_s >= from_s)]
    if len(back):
        facts["back_to_model_s"] = round(float(back.min()) - returned_s, 4)
    if len(noticed):
        facts["last_degraded_s"] = round(max(0.0, float(noticed.max()) - returned_s), 4)
    facts["degraded_share_after_promise"] = _share(bad[view.planned_s >= returned_s + back_within_s])
    return facts


def _share(marks: NDArray[np.bool_]) -> float | None:
    return round(float(marks.mean()), 6) if len(marks) else None


def verdict(recovery: dict[str, Any], durability: dict[str, Any], *, back_within_s: float) -> dict[str, bool]:
    """The promises, each kept or not."""
    back = recovery["back_to_model_s"]
    return {
        "no_5xx_or_lost_reply_from_recommend": recovery["recommend_errors"] == 0,
        "back_to_model_in_time": back is not None and back <= back_within_s,
        "no_stored_event_missing": durability["events_missing"] == 0 and durability["complete"],
    }
