"""One HTTP connection: uvicorn's, and what only the socket knows.

When a request's first byte came, so that its budget counts from there. That its caller has gone, so that nobody works
for nobody. That its body does not come. And that the event loop has more on its hands than it can do in time: then some
are answered from memory, and the rest refused as soon as their headers are read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.api.gate import ABANDON, ARRIVED_AT, BATCHES, CROWDED, GONE, LATE, QUESTIONS, REPLY
from service.api.problems import MEDIA_TYPE, problem
from service.errors import Overloaded, ReceiveTimeout
from service.logs import new_id
from service.metrics import Metrics

# What suffers when the loop is crowded: the questions. Events, people and health always pass.
_QUESTIONS = {path.encode() for path in QUESTIONS}
# A batch costs as much as many questions, also from memory.
_NEVER_FROM_MEMORY = {path.encode() for path in BATCHES}

Room = Literal["all", "memory", "none"]


class Crowd:
    """Whether the event loop keeps up, judged by how long it works on the requests that it reads in one go.

    A loop that falls behind reads more at a time each time, and everybody waits for everybody. Once a few turns in a
    row have taken longer than `turn_s`, only as many requests are let in per turn as it can do in that time. A few more
    are answered from memory, which costs about half, and the rest is refused, which costs a fraction. A single long
    turn, a burst, harms nobody. Time is processor time: refusing would not help where another process has the core.
    """

    _TURNS = 3
    _NEWEST = 0.1
    # Of a turn, for answers from memory on top: they absorb an excess of a fifth, and cost no more than that elsewhere.
    _FROM_MEMORY = 0.25

    def __init__(self, loop: asyncio.AbstractEventLoop, *, turn_s: float = 0.02) -> None:
        self._loop, self._turn_s = loop, turn_s
        self._n_let_in = 0
        self._clock = time.monotonic
        self._began_at = 0.0
        self._cost_s = turn_s / 64  # of one request, moving
        self._n_long_turns = 0

    def room(self) -> Room:
        """What there is room for in this turn; counts the request if it is let in."""
        if not self._n_let_in:
            self._began_at = self._clock()
            self._loop.call_soon(self._all_read)
        room: Room = "all"
        if self._n_long_turns >= self._TURNS:
            spent_s = self._n_let_in * self._cost_s
            if spent_s >= (1 + self._FROM_MEMORY) * self._turn_s:
                return "none"
            if spent_s >= self._turn_s:
                room = "memory"
        self._n_let_in += 1
        return room

    def _all_read(self) -> None:
        self._loop.call_soon(self._turn_ends, self._n_let_in, self._began_at, self._clock)
        self._n_let_in = 0

    def _turn_ends(self, n_requests: int, began_at: float, clock: Callable[[], float]) -> None:
        took = clock() - began_at
        # Reading processor time is a system call: only where turns are long by the clock on the wall.
        self._clock = time.monotonic if took < self._turn_s / 4 else time.thread_time
        if clock is not time.thread_time and took >= self._turn_s / 2:
            return
        self._cost_s += self._NEWEST * (took / n_requests - self._cost_s)
        if took >= self._turn_s:
            self._n_long_turns = min(self._n_long_turns + 1, 2 * self._TURNS)
        elif took < self._turn_s / 2 and self._n_long_turns:
            self._n_long_turns -= 1


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with httptools.

    Args:
        metrics: counts what a crowded loop does not take.
        receive_timeout_s: a request that has begun to arrive must have arrived by then, unless its answer has begun.
        crowd: shared by all connections of the loop.
    """

    def __init__(self, *args: Any, metrics: Metrics, receive_timeout_s: float, crowd: Crowd, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._metrics, self._receive_timeout_s, self._crowd = metrics, receive_timeout_s, crowd
        self._receiving = False
        self._refusing = False
        self._late: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._receiving:  # most requests come whole and need no timer
            if self._late is None:
                self._late = self.loop.call_later(self._receive_timeout_s, self._is_late)
        elif self._late is not None:
            self._late.cancel()
            self._late = None

    def connection_lost(self, exc: Exception | None) -> None:
        cycle = self.cycle
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)
        if cycle is not None and not cycle.response_complete and (abandon := cycle.scope["state"].get(ABANDON)):
            abandon(GONE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._receiving = True
        self.scope["state"][ARRIVED_AT] = time.monotonic()

    def on_headers_complete(self) -> None:
        room: Room = "all"
        answered = self.cycle is None or self.cycle.response_complete
        if answered and self.url in _QUESTIONS and not self.expect_100_continue:
            room = self._crowd.room()
        if room != "all":
            self._metrics.shed.labels("loop_busy").inc()
        if room == "none" or (room == "memory" and self.url in _NEVER_FROM_MEMORY):
            self._refusing = True
            return
        super().on_headers_complete()
        state = self.scope["state"]
        state[REPLY] = partial(self._reply, self.cycle)
        if room == "memory":
            state[CROWDED] = True

    def on_body(self, body: bytes) -> None:
        if not self._refusing:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._receiving = False
        if not self._refusing:
            super().on_message_complete()
            return
        self._refusing = False
        keeps_alive = self.parser.should_keep_alive()
        refusal = Overloaded("More requests arrive than can be read in time.", retry_after_s=1)
        self._write(refusal, b"" if keeps_alive else b"connection: close\r\n")
        if not keeps_alive:
            self.transport.close()
            return
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _reply(self, cycle: RequestResponseCycle, head: bytes, body: bytes) -> bool:
        """Writes a whole answer at once; False where it has to go through `send`, because the caller does not read.

        `send` costs three times as much: it checks each header, and writes head and body apart.
        """
        if cycle.response_started or self.flow.write_paused:
            return False
        if not cycle.disconnected:
            cycle.response_started = cycle.response_complete = True
            defaults = [b"%s: %s\r\n" % header for header in cycle.default_headers]
            close = b"" if cycle.keep_alive else b"connection: close\r\n"
            self.transport.write(b"".join((head, *defaults, close, b"\r\n", body)))
            cycle.message_event.set()
            if not cycle.keep_alive:
                self.transport.close()
            cycle.on_response()
        return True

    def _is_late(self) -> None:
        self._late = None
        if not self._receiving or self.transport.is_closing():
            return
        if self._refusing or self.cycle is None or self.cycle.response_complete:  # not even the headers are there
            self._write(ReceiveTimeout("The request did not arrive in time."), b"connection: close\r\n")
            self.transport.close()
        elif not self.cycle.response_started and (abandon := self.cycle.scope["state"].get(ABANDON)):
            abandon(LATE)

    def _write(self, error: Overloaded | ReceiveTimeout, further: bytes) -> None:
        request_id = new_id()
        body = orjson.dumps(problem(error, request_id))
        retry = b"" if error.retry_after_s is None else b"retry-after: %d\r\n" % error.retry_after_s
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\ncontent-length: %d\r\nx-request-id: %s\r\n%s%s\r\n%s"
            % (
                error.status,
                error.title.encode(),
                MEDIA_TYPE.encode(),
                len(body),
                request_id.encode(),
                retry,
                further,
                body,
            )
        )
