"""The lean generator against servers that answer, answer wrongly, or do not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from http_stand_in import serving

from loadtest.bench.exchange import (
    ABORTED,
    CLOSED,
    NO_TIER,
    TIERS,
    TIMED_OUT,
    Job,
    Outcome,
    http_request,
    load_requests,
    save_requests,
)
from loadtest.bench.processes import Running
from loadtest.errors import InputError

Reply = Callable[[bytes], bytes | None]
Drive = Callable[..., Outcome]


def whole(body: bytes, status: str = "200 OK", head: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body


async def drive_against(reply: Reply, drive: Drive, **job: Any) -> Outcome:
    """What the generator says of a server that sends `reply(request)` in two packets.

    A reply of None closes the connection, b"" says nothing at all.
    """

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.read(65_536):
            answer = reply(request)
            if answer is None:
                return
            writer.write(answer[:20])
            await writer.drain()
            writer.write(answer[20:])

    async with serving(handler=handle) as url:
        outcome = await asyncio.to_thread(drive, int(url.rpartition(":")[2]), **job)
        # The generator has hung up; every connection's handler hears of it and ends.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=10)
        return outcome


def test_the_schedule_is_fixed_by_the_seed_and_keeps_its_phases() -> None:
    job = Job("h", 1, "open", [(100.0, 1.0), (0.0, 1.0), (400.0, 1.0)], 1, "", "", seed=3)
    planned = job.schedule()
    assert (np.diff(planned) >= 0).all()
    assert planned.tolist() == job.schedule().tolist()
    counts = [int(((planned >= second) & (planned < second + 1)).sum()) for second in range(3)]
    # Poisson: within five standard deviations of 100 and 400, and nothing in the pause.
    assert abs(counts[0] - 100) < 50
    assert counts[1] == 0
    assert abs(counts[2] - 400) < 100


def test_an_open_loop_sends_every_planned_request_once(answerer: Running, drive: Drive) -> None:
    outcome = drive(answerer.port, phases=[(300.0, 0.3)], seed=5)
    assert len(outcome.planned) > 0
    assert (outcome.status == 200).all()
    assert (outcome.sent >= outcome.planned).all()
    assert (outcome.done >= outcome.sent).all()


def test_a_closed_loop_ends_after_the_requests_asked_for(answerer: Running, drive: Drive) -> None:
    outcome = drive(answerer.port, phases=[(0.0, 30.0)], mode="closed", max_requests=200)
    assert len(outcome.planned) == 200
    assert (outcome.status == 200).all()
    assert outcome.seconds < 30.0


async def test_status_and_tier_are_read_from_replies_in_pieces(drive: Drive) -> None:
    replies = {
        b"/m": whole(b'{"served":{"tier":"model"}}'),
        b"/p": whole(b'{"served":{"tier":"popular"}}'),
        b"/r": whole(b"{}", "503 Service Unavailable", "Retry-After: 1\r\n"),
        b"/c": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    }
    requests = [http_request("GET", path.decode()) for path in replies]
    outcome = await drive_against(
        lambda request: replies[request.split()[1]],
        drive,
        phases=[(0.0, 30.0)],
        mode="closed",
        requests=requests,
        connections=1,
        max_requests=5,
    )
    assert outcome.status.tolist()[:4] == [200, 200, 503, 200]
    assert outcome.tier.tolist()[:4] == [TIERS.index("model"), TIERS.index("popular"), NO_TIER, NO_TIER]


async def test_a_reply_of_the_model_without_the_expected_content_is_foreign(drive: Drive) -> None:
    requests = [http_request("GET", "/a"), http_request("GET", "/b"), http_request("GET", "/c")]
    expected = [b"mine-a", b"mine-b", b""]

    def reply(request: bytes) -> bytes:
        return whole(b'{"tier":"model","items":"mine-a"}')

    outcome = await drive_against(
        reply,
        drive,
        phases=[(0.0, 30.0)],
        mode="closed",
        requests=requests,
        expected=expected,
        connections=1,
        max_requests=6,
    )
    assert outcome.foreign == 2  # the second and the fifth; nothing is expected of the third


async def test_a_closed_connection_is_booked_and_replaced(drive: Drive) -> None:
    turn = iter(range(1_000_000))
    outcome = await drive_against(
        lambda _: None if next(turn) % 2 else whole(b"{}"),
        drive,
        phases=[(0.0, 30.0)],
        mode="closed",
        connections=1,
        max_requests=10,
    )
    assert set(outcome.status.tolist()) == {200, CLOSED}


async def test_a_request_without_a_reply_times_out(drive: Drive) -> None:
    outcome = await drive_against(lambda _: b"", drive, phases=[(40.0, 0.2)], timeout_s=0.3)
    assert len(outcome.planned) > 0
    assert (outcome.status < 0).all()
    assert TIMED_OUT in outcome.status.tolist()


async def test_clients_that_hang_up_are_booked_as_such(drive: Drive) -> None:
    outcome = await drive_against(
        lambda _: b"",
        drive,
        phases=[(0.0, 30.0)],
        mode="closed",
        abort_share=1.0,
        abort_within_s=0.002,
        max_requests=50,
    )
    assert (outcome.status == ABORTED).all()
    assert len(outcome.planned) == 50


async def test_latency_of_an_open_loop_counts_the_wait_for_a_free_connection(drive: Drive) -> None:
    outcome = await drive_against(lambda _: b"", drive, phases=[(100.0, 0.2)], connections=1, timeout_s=0.3)
    # One connection that never answers: the others were due, were never sent, and are not forgotten.
    assert np.isnan(outcome.sent).sum() == len(outcome.planned) - np.isfinite(outcome.sent).sum() > 0
    assert np.isfinite(outcome.done).all()


def test_requests_and_outcomes_survive_their_files(tmp_path: Path) -> None:
    save_requests(tmp_path / "r.npz", [b"one", b"", b"three"], [b"", b"x", b""])
    assert load_requests(tmp_path / "r.npz") == ([b"one", b"", b"three"], [b"", b"x", b""])
    outcome = Outcome(*(np.zeros(2) for _ in range(3)), np.array([200, 0], np.int16), np.zeros(2, np.int8), 1, 0.5, 2.0)
    outcome.save(tmp_path / "o.npz")
    again = Outcome.load(tmp_path / "o.npz")
    assert (again.foreign, again.cpu_s, again.seconds) == (1, 0.5, 2.0)
    assert again.status.tolist() == [200, 0]


def test_a_job_without_a_phase_is_refused() -> None:
    with pytest.raises(InputError, match="phases"):
        Job("h", 1, "open", [], 1, "", "")
