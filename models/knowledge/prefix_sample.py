"""Which session prefixes to ask a language model about, when the calls for all of them are not to be had.

Some are random prefixes of typical sessions (`models.knowledge.typical`), so that a rare taste is asked about as well;
the rest follow the lengths of all prefixes, one prefix a session as long as there are sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import KnowledgeError
from models.knowledge.typical import typical_users

CALLS_PER_PREFIX: Final = 2  # one for each view
# Prefixes of 1, 2, 3-4, 5-8, 9-16 and more clicks: a stratum for each doubling.
_STRATA: Final = np.array([1, 2, 4, 8, 16])


def sample_prefixes(
    lengths: NDArray[np.int64],
    features: NDArray[np.float32],
    n_calls: int,
    *,
    typical_share: float,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[tuple[int, int]]:
    """(session, cut) of at most n_calls / 2 prefixes, each once, ascending; all where the calls suffice.

    Args:
        lengths: (sessions,) clicks; a prefix is followed by a click, so a session of n clicks has n - 1.
        features: (sessions, D) of unit length, by which typical ones are found; zero where nothing is known.
        typical_share: of the prefixes, from typical sessions; 0 for none.

    Raises:
        KnowledgeError: the calls do not suffice for one prefix, or no session has two clicks.
    """
    cuts = np.maximum(lengths - 1, 0)
    n_wanted = n_calls // CALLS_PER_PREFIX
    if n_wanted < 1 or not cuts.any():
        raise KnowledgeError(
            f"{n_calls} calls and {int(cuts.sum())} prefixes, expected {CALLS_PER_PREFIX} calls and one prefix at least"
        )
    sessions = np.repeat(np.arange(len(cuts)), cuts)
    cut = np.arange(len(sessions)) - np.repeat(np.cumsum(cuts) - cuts, cuts) + 1
    if n_wanted >= len(sessions):
        return list(zip(sessions.tolist(), cut.tolist(), strict=True))
    rng = np.random.default_rng(seed)
    chosen: set[tuple[int, int]] = set()
    n_typical = round(n_wanted * typical_share)
    asked = np.where((cuts > 0)[:, None], features, 0)
    n_known = int((asked != 0).any(1).sum())
    if n_typical and n_known:
        typical = typical_users(asked, min(1, n_typical / n_known), seed=seed, on_progress=on_progress)
        chosen |= {(int(row), int(rng.integers(1, cuts[row] + 1))) for row in rng.permutation(typical)[:n_typical]}
    order = rng.permutation(len(sessions))
    _add_stratified(chosen, sessions[order], cut[order], n_wanted)
    return sorted(chosen)


def _add_stratified(
    chosen: set[tuple[int, int]], sessions: NDArray[np.int64], cut: NDArray[np.int64], n_wanted: int
) -> None:
    """Fills `chosen` up from prefixes in random order: each stratum's share, new sessions before known ones."""
    stratum = np.searchsorted(_STRATA, cut)
    quota = shares(np.bincount(stratum, minlength=len(_STRATA) + 1), n_wanted - len(chosen))
    used = {session for session, _ in chosen}
    prefixes = list(zip(sessions.tolist(), cut.tolist(), stratum.tolist(), strict=True))
    for once in (True, False):
        for session, at, where in prefixes:
            if quota[where] and not (once and session in used) and (session, at) not in chosen:
                quota[where] -= 1
                used.add(session)
                chosen.add((session, at))


def shares(sizes: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """int64, summing to n: n shared out by size, what is left after rounding down to the largest remainders."""
    exact = n * sizes / max(1, sizes.sum())
    whole = np.floor(exact).astype(np.int64)
    left = n - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:left]] += 1
    return whole
