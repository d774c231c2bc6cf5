"""The lean generator: one process, one thread, one epoll, requests made beforehand.

`python -m loadtest.bench.generator < job.json`. About 15 us of processor time a request, most of it in the kernel; a
general asynchronous client takes ten times that and, sharing two cores with the server, would measure itself.
Arrivals of an open loop are fixed before the first is sent, and latency counts from the planned moment.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import os
import random
import select
import socket
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np

from loadtest.bench.exchange import (
    ABORTED,
    CLOSED,
    NO_TIER,
    NOT_SENT,
    OTHER_TIER,
    TIERS,
    TIMED_OUT,
    Job,
    Outcome,
    load_requests,
)

_READ_BYTES = 1 << 18
_SWEEP_S = 0.1
_TIER_MARK = b'"tier":"'
_MODEL = TIERS.index("model")
_TIER_OF_LETTER = {ord(name[0]): number for number, name in enumerate(TIERS)}


class _Connection:
    __slots__ = ("fd", "number", "received", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.number = -1  # of the request in flight
        self.received = b""


class Generator:
    """Runs one job; `run` gives its outcome."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._requests, self._expected = load_requests(Path(job.requests))
        self._expects = any(self._expected)
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._idle: list[_Connection] = []
        self._backlog: deque[int] = deque()  # open loop: due, but no connection is free
        self._aborts: list[tuple[float, int, int]] = []  # (due, request, fd)
        self._random = random.Random(job.seed)
        self._foreign = 0
        self._in_flight = 0
        self._start = 0.0
        self._planned: list[float] = []
        self._sent: list[float] = []
        self._done: list[float] = []
        self._status: list[int] = []
        self._tier: list[int] = []

    def run(self) -> Outcome:
        try:
            return self._run()
        finally:
            gc.enable()
            for connection in list(self._connections.values()):
                self._drop(connection)
            self._epoll.close()

    def _run(self) -> Outcome:
        for _ in range(self._job.connections):
            self._idle.append(self._connect())
        self._start = max(self._job.start_at, time.monotonic())
        if (wait := self._start - time.monotonic()) > 0:
            time.sleep(wait)
        gc.collect()
        gc.disable()  # nothing here makes cycles, and a collection would delay what is due in it
        cpu_s = time.process_time()
        seconds = self._run_open() if self._job.mode == "open" else self._run_closed()
        cpu_s = time.process_time() - cpu_s
        return Outcome(
            planned=np.array(self._planned),
            sent=np.array(self._sent),
            done=np.array(self._done),
            status=np.array(self._status, np.int16),
            tier=np.array(self._tier, np.int8),
            foreign=self._foreign,
            cpu_s=cpu_s,
            seconds=seconds,
        )

    def _run_open(self) -> float:
        planned = self._job.schedule().tolist()
        n = len(planned)
        self._planned = planned
        self._sent, self._done = [float("nan")] * n, [float("nan")] * n
        self._status, self._tier = [NOT_SENT] * n, [NO_TIER] * n
        seconds = sum(length for _, length in self._job.phases)
        last_s = seconds + self._job.timeout_s
        due, next_sweep_s = 0, _SWEEP_S
        idle, backlog = self._idle, self._backlog
        while True:
            now_s = time.monotonic() - self._start
            while due < n and planned[due] <= now_s:
                if idle:
                    self._send(idle.pop(), due)
                else:
                    backlog.append(due)
                due += 1
            if (due == n and not self._in_flight and not backlog) or now_s > last_s:
                break
            if now_s >= next_sweep_s:
                self._sweep(now_s)
                next_sweep_s = now_s + _SWEEP_S
            self._wait(min(planned[due] - now_s if due < n else _SWEEP_S, _SWEEP_S))
        for number in range(n):
            if np.isnan(self._done[number]):  # the end came first
                self._done[number] = last_s
                self._status[number] = NOT_SENT if np.isnan(self._sent[number]) else TIMED_OUT
        return seconds

    def _run_closed(self) -> float:
        seconds = self._job.phases[0][1]
        next_sweep_s = _SWEEP_S
        while (now_s := time.monotonic() - self._start) < seconds and not (self._is_enough() and not self._in_flight):
            while self._idle and not self._is_enough():
                self._send_next(self._idle.pop())
            while self._aborts and self._aborts[0][0] <= now_s:
                self._abort(*heapq.heappop(self._aborts)[1:])
            if now_s >= next_sweep_s:
                self._sweep(now_s)
                next_sweep_s = now_s + _SWEEP_S
            self._wait(max(0.0, self._aborts[0][0] - now_s) if self._aborts else _SWEEP_S)
        # Requests in flight when the time is over are left out: cut short, they have no latency.
        open_ones = {connection.number for connection in self._connections.values()}
        kept = [number for number in range(len(self._planned)) if number not in open_ones]
        for name in ("_planned", "_sent", "_done", "_status", "_tier"):
            column = getattr(self, name)
            setattr(self, name, [column[number] for number in kept])
        return min(seconds, now_s)

    def _is_enough(self) -> bool:
        return 0 < self._job.max_requests <= len(self._planned)

    def _send_next(self, connection: _Connection) -> None:
        number = len(self._planned)
        self._planned.append(time.monotonic() - self._start)
        self._sent.append(float("nan"))
        self._done.append(float("nan"))
        self._status.append(NOT_SENT)
        self._tier.append(NO_TIER)
        self._send(connection, number)
        if self._job.abort_share and self._random.random() < self._job.abort_share:
            due = self._planned[number] + self._random.random() * self._job.abort_within_s
            heapq.heappush(self._aborts, (due, number, connection.fd))

    def _send(self, connection: _Connection, number: int) -> None:
        connection.number = number
        connection.received = b""
        self._in_flight += 1
        self._sent[number] = time.monotonic() - self._start
        content = self._requests[number % len(self._requests)]
        try:
            done = connection.sock.send(content)
            if done < len(content):  # the socket's buffer is full: rare, and worth a wait
                connection.sock.setblocking(True)
                connection.sock.sendall(content[done:])
                connection.sock.setblocking(False)
        except OSError:
            self._fail(connection, CLOSED)

    def _wait(self, timeout_s: float) -> None:
        events = self._epoll.poll(0, 1024)
        if not events and timeout_s > 0:
            # epoll's own timeout is in whole milliseconds; select() over it keeps microseconds.
            select.select([self._epoll], [], [], timeout_s)
            events = self._epoll.poll(0, 1024)
        for fd, _ in events:
            connection = self._connections.get(fd)
            if connection is not None:
                self._receive(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._fail(connection, CLOSED)
            return
        if connection.received:
            data = connection.received + data
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0 or not _is_whole(data, head_end):
            connection.received = data
            return
        number, connection.number = connection.number, -1
        if number < 0:  # a reply nobody asked for
            self._fail(connection, CLOSED)
            return
        self._in_flight -= 1
        self._done[number] = time.monotonic() - self._start
        self._status[number] = status = int(data[9:12])
        mark = data.find(_TIER_MARK, head_end)
        if mark >= 0:
            self._tier[number] = _TIER_OF_LETTER.get(data[mark + 8], OTHER_TIER)
        if self._expects and status == 200 and self._tier[number] in (_MODEL, NO_TIER):
            wanted = self._expected[number % len(self._expected)]
            if wanted and wanted not in data:
                self._foreign += 1
        if b"onnection: close" in data[:head_end]:
            self._drop(connection)
            connection = self._connect()
        self._free(connection)

    def _free(self, connection: _Connection) -> None:
        if self._backlog:
            self._send(connection, self._backlog.popleft())
        elif self._job.mode == "closed" and not self._is_enough():
            self._send_next(connection)
        else:
            self._idle.append(connection)

    def _fail(self, connection: _Connection, status: int) -> None:
        """Books the request in flight and replaces the connection."""
        number, connection.number = connection.number, -1
        if number >= 0:
            self._in_flight -= 1
            self._done[number] = time.monotonic() - self._start
            self._status[number] = status
        else:
            with contextlib.suppress(ValueError):
                self._idle.remove(connection)
        self._drop(connection)
        # Never sent on from here: a server that closes at once would be hammered in an endless recursion.
        self._idle.append(self._connect())

    def _abort(self, number: int, fd: int) -> None:
        connection = self._connections.get(fd)
        if connection is not None and connection.number == number:
            self._fail(connection, ABORTED)

    def _sweep(self, now_s: float) -> None:
        """Gives up what has waited too long, sent or not, and serves the backlog from connections that are free."""
        limit_s = now_s - self._job.timeout_s
        for connection in list(self._connections.values()):
            if connection.number >= 0 and self._planned[connection.number] < limit_s:
                self._fail(connection, TIMED_OUT)
        while self._backlog and self._planned[self._backlog[0]] < limit_s:
            self._done[self._backlog.popleft()] = now_s
        while self._backlog and self._idle:
            self._send(self._idle.pop(), self._backlog.popleft())

    def _connect(self) -> _Connection:
        sock = socket.create_connection((self._job.host, self._job.port), timeout=5.0)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        connection = _Connection(sock)
        self._connections[connection.fd] = connection
        self._epoll.register(connection.fd, select.EPOLLIN)
        return connection

    def _drop(self, connection: _Connection) -> None:
        self._epoll.unregister(connection.fd)
        del self._connections[connection.fd]
        connection.sock.close()


def _is_whole(data: bytes, head_end: int) -> bool:
    head = data[:head_end].lower()
    found = head.find(b"content-length:")
    if found >= 0:
        end = head.find(b"\r\n", found)
        length = int(head[found + 15 : end if end >= 0 else len(head)])
        return len(data) >= head_end + 4 + length
    if b"transfer-encoding: chunked" in head:
        return data.endswith(b"0\r\n\r\n")
    return True


def main() -> None:
    """Runs the job on stdin and writes its outcome."""
    job = Job.from_json(sys.stdin.buffer.read())
    if job.cores:
        os.sched_setaffinity(0, job.cores)
    out = Path(job.out)
    try:
        Generator(job).run().save(out)
    except OSError as error:
        sys.exit(f"generator: {job.host}:{job.port}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
