"""One HTTP connection: uvicorn's, and what only the socket knows.

When a request came, so that its budget counts from there and not from when it was read. That its caller has gone, so
that nobody works for nobody. That its body does not come. And that the event loop has more on its hands than it can do
in time: then some are answered from memory, and the rest refused, most of them unread.

Requests to straight routes, nearly all there are, are answered from here; all others go uvicorn's way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.arrival import no_wait, wait_of
from service.api.crowd import Crowd, Room
from service.api.exchange import Exchange, StraightRoute, problem_reply
from service.api.gate import ABANDON, ARRIVED_AT, BATCHES, CROWDED, QUESTIONS
from service.api.record import GONE, LATE
from service.api.refusal import Refusal, is_whole_request
from service.errors import Overloaded, ReceiveTimeout, crowded_loop
from service.logs import new_id
from service.metrics import Metrics

# What suffers when the loop is crowded: the questions. Events, people and health always pass.
_QUESTIONS = {path.encode() for path in QUESTIONS}
# A batch costs as much as many questions, also from memory.
_NEVER_FROM_MEMORY = {path.encode() for path in BATCHES}


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with httptools.

    Args:
        straight: routes that are answered here, by path; their method is POST.
        metrics: counts what a crowded loop does not take.
        receive_timeout_s: a request that has begun to arrive must have arrived by then, unless its answer has begun.
        crowd: shared by all connections of the loop.
        refusal: what a crowded loop says to those that it has no room for.
    """

    cycle: Any  # the newest request: an Exchange, or uvicorn's RequestResponseCycle

    def __init__(
        self,
        *args: Any,
        straight: Mapping[bytes, StraightRoute],
        metrics: Metrics,
        receive_timeout_s: float,
        crowd: Crowd,
        refusal: Refusal,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._straight = straight
        self._receive_timeout_s, self._crowd = receive_timeout_s, crowd
        self._shed = metrics.shed.labels("loop_busy")
        self._refusal = refusal
        self._starts = tuple(b"POST %s HTTP/1.1\r\n" % path for path in straight)
        self._wait_s = no_wait
        self._arrived_at = 0.0
        self._receiving = False
        self._refusing = False
        self._refusal_due = False
        self._late: asyncio.TimerHandle | None = None
        self._exchange: Exchange | None = None  # in progress
        self._idle_since: float | None = None
        self._idle_watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._wait_s = wait_of(transport)

    def data_received(self, data: bytes) -> None:
        if self._crowd.is_full and self._refuses_unread(data):
            return
        super().data_received(data)
        if self._receiving:  # most requests come whole and need no timer
            if self._late is None:
                self._late = self.loop.call_later(self._receive_timeout_s, self._is_late)
        elif self._late is not None:
            self._late.cancel()
            self._late = None

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._late, self._idle_watch):
            if timer is not None:
                timer.cancel()
        cycle = self.cycle
        if isinstance(cycle, Exchange):
            self.cycle = None
        super().connection_lost(exc)
        if self._exchange is not None:
            self._exchange.gone()
        elif self.cycle is not None and not cycle.response_complete and (abandon := cycle.scope["state"].get(ABANDON)):
            abandon(GONE)

    def on_message_begin(self) -> None:
        self._say_refused()  # replies leave in the order of their requests
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._receiving = True
        self._arrived_at = time.monotonic() - self._wait_s()

    def on_headers_complete(self) -> None:
        room: Room = "all"
        route = None
        answered = self.cycle is None or self.cycle.response_complete
        if answered and self.url in _QUESTIONS and not self.expect_100_continue:
            room = self._crowd.room()
            route = self._straight.get(self.url)
        if room != "all":
            self._shed.inc()
            if room == "none" or self.url in _NEVER_FROM_MEMORY:
                self._refusing = True
                return
        if route is not None and self.parser.get_method() == b"POST" and not self.flow.write_paused:
            self._open(route, crowded=room == "memory")
        else:
            self._go_the_long_way(crowded=room == "memory")

    def on_body(self, body: bytes) -> None:
        if isinstance(self.cycle, Exchange):
            self.cycle.take(body)
        elif not self._refusing:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._receiving = False
        if self._refusing:
            self._refuse()
        elif isinstance(self.cycle, Exchange):
            self.cycle.begin()
        else:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """As uvicorn's, except that an idle connection has no timer of its own for each request."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._be_idle()

    def finish(self, exchange: Exchange, reply: bytes) -> None:
        """See `Link`."""
        self._exchange = None
        self.tasks.discard(exchange)
        if not reply:
            return
        self.transport.write(reply)
        if not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def common_headers(self) -> list[tuple[bytes, bytes]]:
        """See `Link`."""
        return self.server_state.default_headers

    def _open(self, route: StraightRoute, *, crowded: bool) -> None:
        record = route.records.open(dict(self.headers), self._arrived_at, crowded=crowded)
        keep_alive = self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0"
        self.cycle = self._exchange = exchange = Exchange(route, self, record, keep_alive=keep_alive)
        # Where uvicorn looks for what is in flight, at a stop.
        self.tasks.add(exchange)  # type: ignore[arg-type]
        exchange.check_declared()

    def _go_the_long_way(self, *, crowded: bool) -> None:
        url, headers, expect_100_continue = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # makes the scope, which other requests do without
        self.url, self.expect_100_continue = url, expect_100_continue
        self.headers += headers
        state = self.scope["state"]
        state[ARRIVED_AT] = self._arrived_at
        if crowded:
            state[CROWDED] = True
        super().on_headers_complete()

    def _refuses_unread(self, data: bytes) -> bool:
        """Refuses a question of the usual form before it is parsed, which is half of what a refusal costs."""
        answered = self.cycle is None or self.cycle.response_complete
        if self._receiving or not answered or not is_whole_request(data, self._starts):
            return False
        self._crowd.note_refusal()
        self._shed.inc()
        self._refuse_in_turn()
        return True

    def _refuse(self) -> None:
        self._refusing = False
        if self.parser.should_keep_alive():
            self._refuse_in_turn()
        else:
            self._write(crowded_loop(), b"connection: close\r\n")
            self.transport.close()

    def _refuse_in_turn(self) -> None:
        self._say_refused()
        self._refusal_due = True
        self._crowd.refuse(self._say_refused)

    def _say_refused(self) -> None:
        if not self._refusal_due:
            return
        self._refusal_due = False
        if not self.transport.is_closing():  # uvloop raises where one is, and others would not hear theirs
            self.transport.write(self._refusal.reply())
            self._be_idle()

    def _is_late(self) -> None:
        self._late = None
        if not self._receiving or self.transport.is_closing():
            return
        if self._refusing or self.cycle is None or self.cycle.response_complete:  # not even the headers are there
            self._write(ReceiveTimeout("The request did not arrive in time."), b"connection: close\r\n")
            self.transport.close()
        elif isinstance(self.cycle, Exchange):
            self.cycle.late()
        elif not self.cycle.response_started and (abandon := self.cycle.scope["state"].get(ABANDON)):
            abandon(LATE)

    def _write(self, error: Overloaded | ReceiveTimeout, further: bytes) -> None:
        request_id = new_id()
        self.transport.write(
            problem_reply(error, request_id, b"x-request-id: %s\r\n%s\r\n" % (request_id.encode(), further))
        )

    def _unset_keepalive_if_required(self) -> None:
        """uvicorn's word for: a request begins."""
        self._idle_since = None

    def _be_idle(self) -> None:
        # One timer a connection, that looks again when it was too early: setting and taking back one for each request
        # costs more than reading the request does.
        self._idle_since = self.loop.time()
        if self._idle_watch is None:
            self._idle_watch = self.loop.call_later(self.timeout_keep_alive, self._look_idle)

    def _look_idle(self) -> None:
        self._idle_watch = None
        if self._idle_since is None or self.transport.is_closing():
            return
        left_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left_s <= 0:
            self.transport.close()
        else:
            self._idle_watch = self.loop.call_later(left_s, self._look_idle)
