"""The embedded server: what it acknowledged survives it, it comes back, it goes with us, its folder is its own."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from state_servers import until, until_async

from service.errors import SettingsError, StoreUnavailable
from service.state.embedded import EmbeddedRedis
from service.state.redis_store import RedisStore
from service.state.store import Event

T = 5.0


@pytest.fixture
def embed(tmp_path) -> Iterator[Callable[..., EmbeddedRedis]]:
    """Starts an EmbeddedRedis and stops it after the test, however that ends."""
    made: list[EmbeddedRedis] = []

    def start(folder: Path = tmp_path / "state", **options) -> EmbeddedRedis:
        made.append(EmbeddedRedis(folder, **options))
        made[-1].start()
        return made[-1]

    yield start
    for embedded in made:
        embedded.stop()


def client(embedded: EmbeddedRedis) -> redis.Redis:
    return redis.Redis.from_url(embedded.url, retry=Retry(NoBackoff(), 0), socket_timeout=2)


def answers(embedded: EmbeddedRedis) -> bool:
    try:
        with client(embedded) as connection:
            return bool(connection.ping())
    except redis.RedisError:
        return False


def kill(embedded: EmbeddedRedis) -> None:
    pid = embedded.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: embedded.pid not in (None, pid))


def put(embedded: EmbeddedRedis, value: str) -> None:
    with client(embedded) as connection:
        connection.rpush("values", value)


def values(embedded: EmbeddedRedis) -> list[str]:
    with client(embedded) as connection:
        return [value.decode() for value in connection.lrange("values", 0, -1)]


async def test_every_event_answered_as_stored_survives_sigkill_at_any_moment(embed, connect) -> None:
    embedded = embed(backoff_s=(0.0,))
    store = connect(embedded.url, probe_s=0.002)
    acknowledged: dict[str, list[str]] = {f"user{number}": [] for number in range(16)}
    stop = asyncio.Event()

    async def keep_appending(user: str) -> None:
        for number in range(450):  # below the 500 that are kept
            if stop.is_set():
                break
            event = Event(f"e{number}", "click", "i", float(number), user)
            try:
                await store.append([event], timeout_s=T)
                acknowledged[user].append(event.event_id)
            except StoreUnavailable:
                await asyncio.sleep(0.001)

    async def more_are_acknowledged(count: int) -> bool:
        return sum(map(len, acknowledged.values())) >= count

    tasks = [asyncio.create_task(keep_appending(user)) for user in acknowledged]
    for round_number in range(5):
        await until_async(lambda target=(round_number + 1) * 300: more_are_acknowledged(target))
        await asyncio.to_thread(kill, embedded)
    stop.set()
    await asyncio.gather(*tasks)
    await asyncio.to_thread(until, lambda: answers(embedded))
    await until_async(lambda: store_answers(store))
    for user, event_ids in acknowledged.items():
        stored = {event.event_id for event in await store.export_user(user)}
        assert set(event_ids) <= stored
    assert embedded.n_restarts == 5


async def store_answers(store: RedisStore) -> bool:
    try:
        await store.ping()
    except StoreUnavailable:
        return False
    return True


def test_what_was_stored_is_there_after_stop_and_start(embed) -> None:
    first = embed()
    put(first, "a")
    first.stop()
    assert values(embed()) == ["a"]


def test_an_append_only_file_cut_short_is_read_up_to_the_cut(embed, tmp_path) -> None:
    first = embed()
    put(first, "a")
    put(first, "b")
    first.stop()
    file = tmp_path / "state" / "appendonly.aof"
    os.truncate(file, file.stat().st_size - 3)
    second = embed()
    assert values(second) == ["a"]
    put(second, "c")
    kill(second)
    until(lambda: answers(second))
    assert values(second) == ["a", "c"]


def test_a_damaged_append_only_file_is_refused_in_the_servers_words(embed, tmp_path) -> None:
    first = embed()
    put(first, "a")
    first.stop()
    file = tmp_path / "state" / "appendonly.aof"
    file.write_bytes(b"nonsense\r\n" + file.read_bytes())
    with pytest.raises(SettingsError, match="Bad file format reading the append only file"):
        embed()
    assert file.read_bytes().startswith(b"nonsense")
    file.write_bytes(file.read_bytes().removeprefix(b"nonsense\r\n"))
    assert values(embed()) == ["a"]  # the failed start let go of the folder


def test_a_folder_in_use_is_refused_by_name_until_it_is_free(embed, tmp_path) -> None:
    first = embed()
    with pytest.raises(SettingsError, match=f"{tmp_path}/state is in use .*process {os.getpid()}, socket"):
        embed(lock_timeout_s=0.0)
    assert answers(first)
    first.stop()
    assert answers(embed(lock_timeout_s=0.0))


def test_a_server_that_outlives_its_supervisor_still_guards_the_folder(embed) -> None:
    first = embed()
    os.close(first._lock_fd)  # what the death of the supervising process does
    first._lock_fd = None
    with pytest.raises(SettingsError, match="is in use"):
        embed(lock_timeout_s=0.0)
    first.stop()
    assert answers(embed(lock_timeout_s=0.0))


def test_a_folder_that_cannot_be_made_is_refused_by_name(embed, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=f"{tmp_path}/file/state cannot be used"):
        embed(tmp_path / "file" / "state")


def test_a_server_that_dies_again_and_again_comes_back_every_time(embed) -> None:
    embedded = embed(backoff_s=(0.0, 0.001, 0.002))
    for number in range(4):
        put(embedded, str(number))
        kill(embedded)
        until(lambda: answers(embedded))
    assert values(embedded) == ["0", "1", "2", "3"]


def test_the_server_outlives_the_thread_that_started_it(embed) -> None:
    started: list[EmbeddedRedis] = []
    thread = threading.Thread(target=lambda: started.append(embed()))
    thread.start()
    thread.join()
    pid = started[0].pid
    put(started[0], "a")
    assert values(started[0]) == ["a"]
    assert started[0].pid == pid
    assert started[0].n_restarts == 0


def test_the_server_dies_with_a_program_that_is_killed_and_the_folder_is_free_again(embed, tmp_path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from service.state.embedded import EmbeddedRedis\n"
        "embedded = EmbeddedRedis(Path(sys.argv[1])); embedded.start()\n"
        "print(embedded.pid, embedded.url, flush=True)\n"
        "time.sleep(3600)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "state")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        # The log may come first, depending on how structlog is set up.
        line = next(line for line in process.stdout if "unix://" in line)
        pid, url = line.split()
        assert psutil.pid_exists(int(pid))
        with redis.Redis.from_url(url) as connection:
            connection.rpush("values", "a")
        process.kill()
    until(lambda: not psutil.pid_exists(int(pid)))
    left_behind = Path(url.removeprefix("unix://")).parent
    assert left_behind.exists()
    assert values(embed()) == ["a"]
    assert not left_behind.exists()


def test_stop_ends_the_server_and_removes_its_socket_and_may_be_repeated(embed) -> None:
    embedded = embed()
    pid, folder = embedded.pid, Path(embedded.url.removeprefix("unix://")).parent
    embedded.stop()
    embedded.stop()
    assert not psutil.pid_exists(pid)
    assert not folder.exists()
    assert embedded.pid is None


def test_stop_ends_a_server_that_does_not_listen(embed) -> None:
    embedded = embed()
    pid = embedded.pid
    os.kill(pid, signal.SIGSTOP)
    embedded.stop(grace_s=0.01)
    assert not psutil.pid_exists(pid)


def test_the_server_is_private_and_keeps_what_it_is_given(embed) -> None:
    embedded = embed(maxmemory_mb=64)
    socket = Path(embedded.url.removeprefix("unix://"))
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(socket.stat().st_mode) == 0o700
    assert stat.S_IMODE((embedded.state_dir / "appendonly.aof").stat().st_mode) == 0o600
    assert psutil.Process(embedded.pid).net_connections(kind="tcp") == []
    with client(embedded) as connection:
        config = connection.config_get("*")
    expected = {"maxmemory": str(64 << 20), "maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "no"}
    assert {name: config[name] for name in expected} == expected


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(embed) -> None:
    assert os.getsid(embed().pid) != os.getsid(0)


def test_a_long_temporary_folder_does_not_make_the_socket_path_too_long(embed, tmp_path, monkeypatch) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    embedded = embed()
    assert answers(embedded)
    assert list(long.iterdir()) == []


def test_a_used_embedded_redis_is_not_started_twice(embed) -> None:
    embedded = embed()
    with pytest.raises(RuntimeError, match="started once"):
        embedded.start()
    assert answers(embedded)
