"""Whether the next run should wait for callers that the last one answered, and for how long.

Many callers ask again as soon as they have their answer. A run over a large table takes for all of them little more
than for one, but an engine that never waits begins with whoever is back first: callers fall apart into two halves that
run by turns, and everybody waits for the run of the other half as well. So the engine looks at how many have come back
within a quarter of a run after its end. Where these are many beside those who were waiting anyway, a short wait costs
less than it spares. Where callers come as they please (an open loop) they are a quarter of those at most, and nobody
is waited for.
"""

from __future__ import annotations

# A wait lasts this share of the run before it, and no longer than this many seconds.
_SHARE, _LONGEST_S = 1 / 4, 0.01
# It pays where more come back than this share of those who waited at the end of the run. Arrivals that know nothing of
# answers come to `_SHARE`, callers in two halves that run by turns to 1.
_PAYS = 1 / 2
# Weight of the newest in moving averages.
_NEWEST = 0.2


class Patience:
    """Moving averages of one engine's runs: how many came back soon after each, and how many waited at its end.

    The event loop says who asked, the engine's thread when a run ended. A count that gets lost between them is no harm.
    """

    def __init__(self) -> None:
        self._until = 0.0
        self._came = 0
        self._back = self._waiting = 0.0

    def asked(self, at_s: float) -> None:
        """Counts a request."""
        if at_s <= self._until:
            self._came += 1

    def ended(self, at_s: float, took_s: float, n_waiting: int) -> float:
        """Counts a run, at whose end so many waited. Seconds that the next one may wait; 0 where that does not pay."""
        self._back += _NEWEST * (self._came - self._back)
        self._waiting += _NEWEST * (n_waiting - self._waiting)
        wait_s = min(took_s * _SHARE, _LONGEST_S)
        self._came, self._until = 0, at_s + wait_s
        return wait_s if self._back > _PAYS * self._waiting else 0.0
