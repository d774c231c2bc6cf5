"""How a shopper of the sample shop behaves: interests that drift, sessions, and a click model per scenario."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

OPENING: Final = 1_735_689_600  # 2025-01-01T00:00:00Z
N_DAYS: Final = 180
DAY_S: Final = 86_400
SLOT_S: Final = 10_800  # a shopper visits at most once in three hours, so two sessions lie at least 30 minutes apart
LATEST_START_S: Final = 5_400
LONGEST_PAUSE_S: Final = 300
MAXIMUM_CLICKS: Final = 12  # per session

N_INTERESTS: Final = (2, 4)
DRIFT: Final = 0.12  # chance, before each session, that one interest makes room for another
RELATED_DRIFT: Final = 0.6  # ... which then comes from the same category
STYLE_LOYALTY: Final = 1.5  # log-odds of the favourite style
FLOOR: Final = 0.002  # share of attention that any topic gets


@dataclass(frozen=True)
class Scenario:
    """A place in the shop, by what makes people click there. Factors multiply log-odds; 0 means it plays no part."""

    name: str
    share: float  # of sessions, on a working day
    weekend_factor: float  # multiplies `share` on Saturday and Sunday
    mean_clicks: float  # per session
    n_shown: int  # items on the screen for each click
    focus: float  # share of attention on one interest; the rest goes to all interests alike
    appeal: float  # pull of popular items
    follow_up: float  # pull of the thing usually bought next in the same topic
    cheapness: float  # pull of low prices


SCENARIOS: Final = (
    Scenario("home", 0.5, 1.0, mean_clicks=3.5, n_shown=6, focus=0.6, appeal=1.0, follow_up=1.5, cheapness=0.0),
    Scenario("search", 0.3, 1.0, mean_clicks=2.0, n_shown=4, focus=0.97, appeal=0.5, follow_up=2.5, cheapness=0.0),
    Scenario("deals", 0.2, 3.0, mean_clicks=2.5, n_shown=8, focus=0.2, appeal=0.8, follow_up=0.0, cheapness=0.9),
)


@dataclass(frozen=True, eq=False)
class Shelf:
    """What shoppers see of the items; every array but the last is (items,)."""

    topic: NDArray[np.int64]
    thing: NDArray[np.int64]  # place of the item's kind among the things of its topic
    style: NDArray[np.int64]
    log_appeal: NDArray[np.float64]
    cheapness: NDArray[np.float64]  # minus the centred log price
    related: NDArray[np.bool_]  # (topics, topics)


class Event(NamedTuple):
    """One click: item row, seconds, scenario row, number of the session, and the rows shown and not clicked."""

    item: int
    timestamp: int
    scenario: int
    session: int
    passed_over: list[int]


class Shopper:
    """A shopper with interests, a favourite style and an appetite, all drawn from `rng`."""

    def __init__(self, rng: np.random.Generator, shelf: Shelf) -> None:
        self._rng = rng
        self._shelf = shelf
        self._topics = np.unique(shelf.topic)
        n_interests = min(int(rng.integers(N_INTERESTS[0], N_INTERESTS[1] + 1)), len(self._topics))
        chosen = rng.choice(self._topics, size=n_interests, replace=False)
        self._interests = np.zeros(int(self._topics.max()) + 1)  # (topics,) sums to 1
        self._interests[chosen] = rng.dirichlet(np.full(n_interests, 2.0))
        self._style_pull = STYLE_LOYALTY * (shelf.style == rng.integers(int(shelf.style.max()) + 1))
        # Most people click a dozen times in half a year, a few a hundred times.
        self._n_clicks = int(np.clip(rng.lognormal(np.log(12.0), 0.75), 3, min(120, len(shelf.topic) // 2)))
        self._seen = np.zeros(len(shelf.topic), dtype=bool)

    def visits(self) -> list[Event]:
        """Every click of this shopper, oldest first, strictly increasing in time."""
        # One slot per click is the most that can be needed. Taking them unsorted until the clicks are planned spreads
        # the sessions over the whole time.
        plan: list[tuple[int, int, int]] = []
        left = self._n_clicks
        for slot in self._rng.choice(N_DAYS * DAY_S // SLOT_S, size=self._n_clicks, replace=False).tolist():
            scenario = self._choose_scenario(slot)
            n_clicks = min(1 + int(self._rng.poisson(SCENARIOS[scenario].mean_clicks - 1)), MAXIMUM_CLICKS, left)
            plan.append((slot, scenario, n_clicks))
            left -= n_clicks
            if not left:
                break
        events: list[Event] = []
        for session, (slot, scenario, n_clicks) in enumerate(sorted(plan)):
            self._drift()
            events.extend(self._session(session, scenario, slot, n_clicks))
        return events

    def _choose_scenario(self, slot: int) -> int:
        weekend = (OPENING + slot * SLOT_S) // DAY_S % 7 in (2, 3)  # day 0 of the epoch was a Thursday
        shares = np.array([place.share * (place.weekend_factor if weekend else 1.0) for place in SCENARIOS])
        return int(self._rng.choice(len(SCENARIOS), p=shares / shares.sum()))

    def _drift(self) -> None:
        """Now and then the interests change: one of them is given up for another topic."""
        rng = self._rng
        held, free = np.flatnonzero(self._interests), np.setdiff1d(self._topics, np.flatnonzero(self._interests))
        if rng.random() >= DRIFT or not len(free):
            return
        given_up = int(rng.choice(held))
        related = free[self._shelf.related[given_up, free]]
        taken_up = int(rng.choice(related if len(related) and rng.random() < RELATED_DRIFT else free))
        self._interests[taken_up], self._interests[given_up] = self._interests[given_up], 0.0

    def _session(self, session: int, scenario: int, slot: int, n_clicks: int) -> list[Event]:
        rng, place = self._rng, SCENARIOS[scenario]
        focus = np.zeros_like(self._interests)
        focus[rng.choice(len(focus), p=self._interests)] = 1.0
        attention = place.focus * focus + (1 - place.focus) * self._interests
        taste = self._taste(place, attention)
        exposure = place.appeal * self._shelf.log_appeal + 0.5 * np.log(attention + FLOOR)[self._shelf.topic]
        time = OPENING + slot * SLOT_S + int(rng.integers(LATEST_START_S))
        events: list[Event] = []
        for _ in range(n_clicks):
            pull = taste + place.follow_up * self._next_things(events[-1].item) if events else taste
            item = int(_draw(rng, pull, 1, self._seen)[0])
            self._seen[item] = True
            passed_over = _draw(rng, exposure, place.n_shown - 1, self._seen)
            events.append(Event(item, time, scenario, session, passed_over.tolist()))
            time += int(np.clip(rng.exponential(60.0), 5, LONGEST_PAUSE_S))
        return events

    def _taste(self, place: Scenario, attention: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 (items,): log-odds of a click for this shopper in this place, whatever came before."""
        shelf = self._shelf
        taste: NDArray[np.float64] = (
            place.appeal * shelf.log_appeal
            + np.log(attention + FLOOR)[shelf.topic]
            + self._style_pull
            + place.cheapness * shelf.cheapness
        )
        return taste

    def _next_things(self, item: int) -> NDArray[np.bool_]:
        """bool (items,): kinds of the same topic that tend to be bought after `item`."""
        shelf = self._shelf
        last_thing = int(shelf.thing.max())
        following = 0 if shelf.thing[item] == last_thing else shelf.thing[item] + 1
        mask: NDArray[np.bool_] = (shelf.topic == shelf.topic[item]) & (shelf.thing == following)
        return mask


def _draw(rng: np.random.Generator, log_odds: NDArray[Any], n: int, without: NDArray[np.bool_]) -> NDArray[np.int64]:
    """int64 (at most n,): rows drawn without replacement with the given log-odds, none of `without` (Gumbel top-n)."""
    n = min(n, int(np.count_nonzero(~without)))
    if n == 0:
        return np.empty(0, dtype=np.int64)
    keys = np.where(without, -np.inf, log_odds + rng.gumbel(size=len(log_odds)))
    return np.argpartition(-keys, n - 1)[:n]
