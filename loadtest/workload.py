"""Sessions to walk: seeded synthetic ones from two power laws, or the held-out ones of a real dataset.

The synthetic kind follows the generator of ETUDE (benchmark of session recommenders): one exponent for the
session length, one for item popularity. Real click logs look like this, a uniform draw does not: with it every
cache and every history looks alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from loadtest.dataset import read_histories
from loadtest.errors import InputError
from loadtest.ids import check_ids


@dataclass(frozen=True, slots=True)
class Session:
    """One visit: the items in the order they are looked at. `past` are items seen before the visit, oldest first."""

    session_id: str
    user_id: str | None
    item_ids: tuple[str, ...]
    past: tuple[str, ...] = ()


class Workload(Protocol):
    """An endless, seeded stream of sessions: the same arguments give the same stream."""

    def sessions(self) -> Iterator[Session]: ...

    def describe(self) -> dict[str, object]:
        """What stands in a result: everything needed to make the same stream again."""


@dataclass(frozen=True)
class PowerLaw:
    """Exponents and bounds of the synthetic sessions.

    P(length = l) ~ l^-length_exponent for 1 <= l <= max_length; P(item of popularity rank r) ~ r^-popularity_exponent.
    """

    length_exponent: float = 1.8
    popularity_exponent: float = 0.9
    max_length: int = 50
    known_share: float = 0.5  # share of sessions that carry a user_id beside the session_id
    n_users: int = 10_000  # known sessions draw their user from this many; 0: every session has a user of its own

    def __post_init__(self) -> None:
        if self.max_length < 1 or not 0 <= self.known_share <= 1 or self.n_users < 0:
            raise InputError(f"workload: {self} needs max_length >= 1, known_share in 0..1 and n_users >= 0")


class PowerLawWorkload:
    """Synthetic sessions over given items.

    Args:
        item_ids: most popular first; position decides how often an item is looked at.
        seed: decides items, lengths and users.
        run_id: prefix of session and user ids, so that two runs never share state in the service.
    """

    def __init__(self, item_ids: Sequence[str], law: PowerLaw, *, seed: int, run_id: str) -> None:
        if not item_ids:
            raise InputError("workload: no item ids")
        self._item_ids = list(item_ids)
        self._law = law
        self._seed = seed
        self._run_id = run_id
        self._length_cdf = power_law_cdf(law.max_length, law.length_exponent)
        self._item_cdf = power_law_cdf(len(self._item_ids), law.popularity_exponent)

    def sessions(self) -> Iterator[Session]:
        rng = np.random.default_rng(self._seed)
        for number in itertools.count():
            length = 1 + int(np.searchsorted(self._length_cdf, rng.random(), side="right"))
            rows = np.searchsorted(self._item_cdf, rng.random(length), side="right")
            yield Session(
                session_id=f"{self._run_id}-s{number}",
                user_id=self._user_id(number, rng),
                item_ids=tuple(self._item_ids[row] for row in rows),
            )

    def _user_id(self, number: int, rng: np.random.Generator) -> str | None:
        if rng.random() >= self._law.known_share:
            return None
        user = int(rng.integers(self._law.n_users)) if self._law.n_users else number
        return f"{self._run_id}-u{user}"

    def describe(self) -> dict[str, object]:
        law = {name: getattr(self._law, name) for name in self._law.__dataclass_fields__}
        return {"kind": "power_law", "n_items": len(self._item_ids), "seed": self._seed, **law}


class DatasetWorkload:
    """The held-out end of every user's history in a dataset folder, in a seeded order, again and again.

    Where the set knows sessions, the visit is the user's last session; elsewhere it is the last `held_out` events.
    What came before is the visit's `past`. In a set of anonymous sessions every session is a visit without a past.
    """

    def __init__(self, folder: Path, *, held_out: int, seed: int, run_id: str) -> None:
        if held_out < 1:
            raise InputError(f"workload: held_out is {held_out}; expected at least 1")
        self._visits: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
        for history in read_histories(folder).values():
            item_ids = tuple(check_ids(history.item_ids, str(folder)))
            length = min(history.last_session_length() or held_out, len(item_ids))
            self._visits.append((item_ids[:-length], item_ids[-length:]))
        if not self._visits:
            raise InputError(f"{folder}: interactions.parquet holds no event")
        self._folder, self._held_out, self._seed, self._run_id = folder, held_out, seed, run_id

    def sessions(self) -> Iterator[Session]:
        rng = np.random.default_rng(self._seed)
        for lap in itertools.count():
            for row in rng.permutation(len(self._visits)):
                past, visit = self._visits[row]
                name = f"{self._run_id}-{lap}-{row}"
                yield Session(session_id=f"{name}-s", user_id=f"{name}-u", item_ids=visit, past=past)

    def describe(self) -> dict[str, object]:
        return {
            "kind": "dataset",
            "dataset": self._folder.resolve().name,
            "n_visits": len(self._visits),
            "held_out": self._held_out,
            "seed": self._seed,
        }


def power_law_cdf(n: int, exponent: float) -> NDArray[np.float64]:
    """Cumulative probabilities (n,) of ranks 1..n with P(r) ~ r^-exponent; the last entry is exactly 1."""
    weights = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    cdf = np.cumsum(weights)
    cdf /= cdf[-1]
    return cdf
