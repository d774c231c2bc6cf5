"""Server processes of a benchmark: started on given cores, watched through /proc, paused, and surely ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.errors import ServiceError

_PR_SET_PDEATHSIG = 1
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_POLL_S = 0.05
_STOP_S = 15.0


@dataclass(frozen=True)
class Use:
    """What a process and its descendants hold at one moment.

    `anonymous_mb` is what they have allocated. `pss_mb` adds their share of files that are mapped; it changes when
    another process that maps them too, any Python for instance, comes or goes.
    """

    cpu_s: float
    pss_mb: float
    anonymous_mb: float
    n_processes: int
    n_threads: int
    n_fds: int


@dataclass(frozen=True)
class MachineTime:
    """Processor seconds: worked here, and taken by the host of a virtual machine while there was work."""

    busy_s: float
    stolen_s: float


# Of `Use`, what must stay as it is however long a server runs.
GROWING = ("anonymous_mb", "n_fds", "n_threads")


class Running:
    """A started server; `stop` ends it and everything it started."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.port = port
        self.log = log
        self._url = f"http://127.0.0.1:{port}"
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def use(self) -> Use:
        """Processor seconds, memory and handles of the whole tree."""
        return use_of(tree(self.pid))

    def pause(self) -> None:
        for pid in tree(self.pid):
            _signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in reversed(tree(self.pid)):
            _signal(pid, signal.SIGCONT)

    def wait_ready(self, path: str, timeout_s: float) -> float:
        """Seconds until `path` answered 200.

        Raises:
            ServiceError: it ended, or did not answer in time; the end of its log is in the message.
        """
        begin = time.monotonic()
        while time.monotonic() - begin < timeout_s:
            if (code := self._process.poll()) is not None:
                raise ServiceError(f"server ended with code {code}\n{self._tail()}")
            with contextlib.suppress(OSError), urllib.request.urlopen(self._url + path, timeout=2) as reply:
                if reply.status == 200:
                    return time.monotonic() - begin
            time.sleep(_POLL_S)
        raise ServiceError(f"server: no 200 at {path} within {timeout_s:g} s\n{self._tail()}")

    def stop(self) -> None:
        self.resume()
        pids = tree(self.pid)
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_S)
        for pid in {*pids, *tree(self.pid)}:
            if _is_alive(pid):
                _signal(pid, signal.SIGKILL)
        self._process.wait()

    def _tail(self) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
        return ""


@contextlib.contextmanager
def started(
    command: Callable[[int], Sequence[str]],
    *,
    log: Path,
    cores: Sequence[int],
    environment: Mapping[str, str],
    ready: str,
    ready_within_s: float = 120.0,
    folder: Path | None = None,
) -> Iterator[Running]:
    """A server that answers, until the block ends.

    Args:
        command: the command line for a port.
        cores: where it may run, with all its children.
        environment: what is added to this process's own.
        ready: path that answers 200 once it serves.
    """
    port = free_port()
    libc = ctypes.CDLL(None, use_errno=True)

    def in_child() -> None:
        os.sched_setaffinity(0, cores)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        process = subprocess.Popen(
            list(command(port)),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            cwd=folder,
            # Ctrl-C is for the benchmark, which then stops its servers in order. No session of its own: Linux shares
            # processor time between sessions first, and a server would be set against its own generator.
            process_group=0,
            preexec_fn=in_child,
        )
    running = Running(process, port, log)
    try:
        running.wait_ready(ready, ready_within_s)
        yield running
    finally:
        running.stop()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def tree(pid: int) -> list[int]:
    """`pid` and its living descendants, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name in parentheses may hold spaces; what follows is state and parent.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def use_of(pids: Sequence[int]) -> Use:
    """The sum over living processes; what has gone meanwhile counts nothing."""
    cpu_s = 0.0
    kilobytes = {"Pss": 0.0, "Anonymous": 0.0}
    n_processes = n_threads = n_fds = 0
    for pid in pids:
        folder = Path("/proc", str(pid))
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            cpu_s += (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
            n_threads += int(fields[17])
            n_processes += 1
            n_fds += len(list((folder / "fd").iterdir()))
            for line in (folder / "smaps_rollup").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in kilobytes:
                    kilobytes[name] += float(value.split()[0])
    pss_mb, anonymous_mb = (round(each / 1024, 1) for each in kilobytes.values())
    return Use(round(cpu_s, 3), pss_mb, anonymous_mb, n_processes, n_threads, n_fds)


def machine_time(stat: Path = Path("/proc/stat")) -> MachineTime:
    """What all cores together have done since the machine's start, as the kernel counts it in `stat`."""
    fields = [int(field) for field in stat.read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return MachineTime((user + nice + system + irq + softirq) / _TICKS_PER_S, steal / _TICKS_PER_S)


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
