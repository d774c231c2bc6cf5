"""Many timeouts, of which nearly none comes: one timer of the event loop for all of them.

A timer of its own for each request costs more than the request's place in a heap, and is taken back nearly always.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Any

# uvloop's timers count whole milliseconds: one that comes a little early must not be set again for no time at all.
_TICK_S = 0.001


class Timeouts:
    """Calls when a time is over for which somebody still waits. Used from the event loop `loop` alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # (when, a number that decides between equals, who waits, what is called): over and done with stays until then.
        self._heap: list[tuple[float, int, asyncio.Future[Any], Callable[[], None]]] = []
        self._n = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def add(self, delay_s: float, waiting: asyncio.Future[Any], call: Callable[[], None]) -> None:
        """Calls after the delay, unless `waiting` is done by then."""
        self._n += 1
        when = self._loop.time() + delay_s
        heapq.heappush(self._heap, (when, self._n, waiting, call))
        if self._timer is None or when < self._timer_at:
            self._arm(when)

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(when, self._look), when

    def _look(self) -> None:
        self._timer = None
        heap, now = self._heap, self._loop.time() + _TICK_S
        while heap and (heap[0][0] <= now or heap[0][2].done()):
            _, _, waiting, call = heapq.heappop(heap)
            if not waiting.done():
                call()
        if heap and self._timer is None:
            self._arm(heap[0][0])
