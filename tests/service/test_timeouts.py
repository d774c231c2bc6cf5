"""One timer for many timeouts, in an event loop whose time the test holds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from service.timeouts import Timeouts


class Waiting:
    """A future as far as timeouts look at it."""

    is_done = False

    def done(self) -> bool:
        return self.is_done


class Timer:
    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.at, self.call, self.is_cancelled = when, call, False

    def when(self) -> float:
        return self.at

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(when, call))
        return self.timers[-1]

    @property
    def armed(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.is_cancelled]

    def until(self, when: float) -> None:
        while due := [timer for timer in self.armed if timer.at <= when]:
            timer = min(due, key=Timer.when)
            self.timers.remove(timer)
            self.now = max(self.now, timer.at)
            timer.call()
        self.now = when


def test_each_is_called_at_its_time_and_those_that_are_done_never() -> None:
    loop, called = Loop(), []
    timeouts, waiting = Timeouts(loop), {name: Waiting() for name in "abcd"}
    for name, delay_s in (("a", 3.0), ("b", 1.0), ("c", 2.0), ("d", 2.0)):
        timeouts.add(delay_s, waiting[name], partial(called.append, name))
    waiting["c"].is_done = True

    loop.until(0.5)
    assert called == []
    loop.until(1.0)
    assert called == ["b"]
    loop.until(2.0)
    assert called == ["b", "d"]
    loop.until(10.0)
    assert called == ["b", "d", "a"]
    assert loop.armed == []


def test_there_is_one_timer_and_what_is_done_asks_for_none() -> None:
    loop = Loop()
    timeouts, waiting = Timeouts(loop), [Waiting() for _ in range(100)]
    for number, each in enumerate(waiting):
        timeouts.add(1.0 + number / 1000, each, lambda: None)
    assert len(loop.armed) == 1
    for each in waiting:
        each.is_done = True

    loop.until(1.0)  # the first one's time: all the others are seen to be done

    assert loop.armed == []


def test_a_call_may_ask_for_more_time() -> None:
    loop, called = Loop(), []
    timeouts, waiting = Timeouts(loop), Waiting()

    def again() -> None:
        called.append(loop.now)
        if len(called) < 3:
            timeouts.add(1.0, waiting, again)

    timeouts.add(1.0, waiting, again)
    loop.until(10.0)

    assert called == [1.0, 2.0, 3.0]
