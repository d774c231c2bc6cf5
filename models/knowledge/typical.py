"""Which users to ask a language model about: real users that stand for the others (EIMF, step 2 of the sheet).

Affinity Propagation, as the paper clusters, keeps three matrices of users x users: it is used up to `AFFINITY_LIMIT`
users. Above, the users are cut into cells by k-means over a sample and each cell into small clusters by k-means again,
so that neither time nor memory grows with users x typical users; the member nearest to a centre stands for its cluster.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import KnowledgeError

AFFINITY_LIMIT: Final = 3000  # three float64 matrices of 72 MB
CELL: Final = 2000  # users
N_BISECTIONS: Final = 8
_SAMPLE_PER_CELL: Final = 100
_BLOCK: Final = 65_536


def typical_users(
    features: NDArray[np.float32],
    share: float,
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.int64]:
    """Rows of typical users, ascending: about `share` of the known ones.

    Args:
        features: (users, D), unit length; zero rows are users nothing is known of, and are never typical.
        on_progress: called with (users done, users in all).

    Raises:
        KnowledgeError: the share is not within 0..1, or no user is known.
    """
    if not 0 < share <= 1:
        raise KnowledgeError(f"share is {share}, expected above 0 and at most 1")
    known = np.flatnonzero((features != 0).any(1))
    if not len(known):
        raise KnowledgeError("no user has a titled item to go by")
    n_wanted = max(1, round(share * len(known)))
    if n_wanted == len(known):
        return known
    if len(known) <= AFFINITY_LIMIT:
        return np.sort(known[_affinity(features[known], n_wanted, seed, on_progress)])
    return np.sort(known[_by_cells(features, known, share, seed, on_progress)])


def _affinity(
    features: NDArray[np.float32], n_wanted: int, seed: int, on_progress: Callable[[int, int], None]
) -> NDArray[np.int64]:
    """Exemplars of Affinity Propagation, at the preference whose count comes nearest to `n_wanted`.

    The paper sets the preference by hand and takes the count that follows; a preference holds for one scale of
    features only (sheet, 8.9), a share for all.
    """
    from sklearn.cluster import AffinityPropagation
    from sklearn.exceptions import ConvergenceWarning

    similarity = -np.maximum(2 - 2 * (features.astype(np.float64) @ features.T.astype(np.float64)), 0)
    middle = min(float(np.median(similarity)), -1e-6)
    preference, low, high = middle, -np.inf, 0.0  # at `low` there were too few, at `high` too many
    best: NDArray[np.int64] = np.empty(0, dtype=np.int64)
    for step in range(N_BISECTIONS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = AffinityPropagation(
                damping=0.8, max_iter=500, affinity="precomputed", preference=preference, random_state=seed
            ).fit(similarity)
        found = np.asarray(fitted.cluster_centers_indices_, dtype=np.int64)
        # Far below what any two users are to each other, it oscillates and names nobody or nearly everybody.
        oscillates = not len(found) or (preference < middle and len(found) > len(features) / 2)
        if not oscillates and (not len(best) or abs(len(found) - n_wanted) < abs(len(best) - n_wanted)):
            best = found
        on_progress((step + 1) * len(features) // N_BISECTIONS, len(features))
        if len(found) == n_wanted:
            break
        if oscillates or len(found) < n_wanted:
            low = preference
        else:
            high = preference
        if np.isinf(low):
            preference *= 4
        else:
            preference = -float(np.sqrt(low * high)) if high < 0 else low / 4
    return best if len(best) else _nearest_members(features, n_wanted, seed)


def _by_cells(
    features: NDArray[np.float32],
    known: NDArray[np.int64],
    share: float,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> NDArray[np.int64]:
    """Places within `known` of the members nearest to the centres of small clusters, cell by cell."""
    from sklearn.cluster import MiniBatchKMeans

    n_cells = -(-len(known) // CELL)
    rng = np.random.default_rng(seed)
    sample = features[known[rng.choice(len(known), min(len(known), n_cells * _SAMPLE_PER_CELL), replace=False)]]
    coarse = MiniBatchKMeans(n_cells, random_state=seed, n_init=1, batch_size=4096, max_iter=20).fit(sample)
    cell = np.concatenate(
        [coarse.predict(features[known[start : start + _BLOCK]]) for start in range(0, len(known), _BLOCK)]
    )
    order = np.argsort(cell, kind="stable")
    chosen, done, owed = [], 0, 0.0
    for members in np.split(order, np.cumsum(np.bincount(cell, minlength=n_cells))[:-1]):
        owed += share * len(members)  # a cell too small for a whole one leaves its part to the next
        n_here = min(int(owed), len(members))
        if n_here:
            owed -= n_here
            chosen.append(members[_nearest_members(features[known[members]], n_here, seed)])
        done += len(members)
        on_progress(done, len(known))
    return np.concatenate(chosen)


def _nearest_members(features: NDArray[np.float32], n_clusters: int, seed: int) -> NDArray[np.int64]:
    """Rows of the members nearest to the centres of `n_clusters` k-means clusters; one fewer for each equal centre."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different users than clusters
        fitted = KMeans(n_clusters, n_init=1, max_iter=20, random_state=seed).fit(features)
    distance = np.square(features - fitted.cluster_centers_[fitted.labels_]).sum(1)
    order = np.lexsort((distance, fitted.labels_))
    first: NDArray[np.int64] = order[np.unique(fitted.labels_[order], return_index=True)[1]]
    return first
