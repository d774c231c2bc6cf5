"""Whether the event loop has more on its hands than it can do in time, and what it should then still take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Literal

Room = Literal["all", "memory", "none"]


class Crowd:
    """Whether the event loop keeps up, judged by how long it works on the requests that it reads in one go.

    A loop that falls behind reads more at a time each time, and everybody waits for everybody. Once a few turns in a
    row have taken longer than `turn_s`, only as many requests are let in per turn as it can do in that time. A few more
    are answered from memory, which spares the engine and the store, and the rest is refused, which costs an eighth. A
    single long turn, a burst, harms nobody, as long as it takes no more than six turns. Time is processor time:
    refusing would not help where another process has the core.
    """

    _TURNS = 3
    # What one turn takes in at most, in turns: as long as the budgets of most requests.
    _BURST = 6
    _NEWEST = 0.1
    # Of a turn, for answers from memory on top: they absorb an excess of a fifth, and cost no more than that elsewhere.
    # A larger excess has to be refused in any case; to answer some of it from memory would only cost full answers.
    _FROM_MEMORY = 0.25
    # Refusals of a turn that are said at once, while more is read.
    _AT_ONCE = 128
    # Of an answer. What refusing costs must not count as what answering costs, or it would leave ever less to answer.
    _REFUSAL = 1 / 8

    def __init__(self, loop: asyncio.AbstractEventLoop, *, turn_s: float = 0.016) -> None:
        self._loop, self._turn_s = loop, turn_s
        self._n_let_in = self._n_refused = 0
        self._clock = self._began_by = time.monotonic
        self._began_at = 0.0
        self._cost_s = turn_s / 64  # of one request, moving
        self._n_long_turns = 0
        self._from_memory = self._FROM_MEMORY
        self._refusals: list[Callable[[], None]] = []

    def room(self) -> Room:
        """What there is room for in this turn; counts the request if it is let in."""
        if not self._n_let_in:
            # The end of the turn before may choose another clock until this one ends.
            self._began_by = self._clock
            self._began_at = self._began_by()
            self._loop.call_soon(self._all_read)
        if self.is_full:
            self.note_refusal()
            return "none"
        behind = self._n_long_turns >= self._TURNS and self._n_let_in * self._cost_s >= self._turn_s
        self._n_let_in += 1
        return "memory" if behind else "all"

    @property
    def is_full(self) -> bool:
        """Whether there is room for nothing more in this turn."""
        in_turns = 1 + self._from_memory if self._n_long_turns >= self._TURNS else self._BURST
        return self._n_let_in * self._cost_s >= in_turns * self._turn_s

    def note_refusal(self) -> None:
        """Counts a request that was refused without asking for room."""
        self._n_refused += 1

    def refuse(self, say: Callable[[], None]) -> None:
        """Refuses, at once or, where many are refused, when this turn's requests have been read.

        libuv reads on as long as all of 1,024 sockets have something to read. Who is refused at once asks again at
        once, and the loop would read and refuse for seconds, without a look at answers that are ready.
        """
        if self._n_refused <= self._AT_ONCE:
            say()
            return
        if not self._refusals:
            self._loop.call_soon(self._say_refusals)
        self._refusals.append(say)

    def _say_refusals(self) -> None:
        refusals, self._refusals = self._refusals, []
        for say in refusals:
            say()

    def _all_read(self) -> None:
        n_full = self._turn_s / self._cost_s
        absorbable = self._n_let_in + self._n_refused <= (1 + self._FROM_MEMORY) * n_full
        self._from_memory = self._FROM_MEMORY if absorbable else 0.0
        weight = self._n_let_in + self._REFUSAL * self._n_refused
        self._loop.call_soon(self._turn_ends, weight, self._began_at, self._began_by)
        self._n_let_in = self._n_refused = 0

    def _turn_ends(self, weight: float, began_at: float, clock: Callable[[], float]) -> None:
        took = clock() - began_at
        # Reading processor time is a system call: only where turns are long by the clock on the wall.
        self._clock = time.monotonic if took < self._turn_s / 4 else time.thread_time
        if clock is not time.thread_time and took >= self._turn_s / 2:
            return
        self._cost_s += self._NEWEST * (took / weight - self._cost_s)
        if took >= self._turn_s:
            self._n_long_turns = min(self._n_long_turns + 1, 2 * self._TURNS)
        elif took < self._turn_s / 2 and self._n_long_turns:
            self._n_long_turns -= 1
