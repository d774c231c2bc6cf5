"""Baselines that train nothing: items that sessions share, and VMIS-kNN, the sessions that share items.

n sessions of training, N n_items + 1, B histories. Sessions count as sets of items.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from models.config import NeighboursConfig
from models.data.dataset import Dataset
from models.data.sequences import Sequences

# Sessions above this quantile of lengths are robots' more than people's; VMIS-kNN's index leaves them out.
_LONGEST = 0.995


class ItemNeighbours(nn.Module):
    """score(j) = cosine of the sets of sessions that clicked j and the newest item; items without any are no answers.

    The item-kNN of the session literature (GRU4Rec, arXiv:1511.06939), without its regularisation.
    """

    def __init__(self, config: NeighboursConfig, train: Sequences, n_items: int) -> None:
        super().__init__()
        self.n_items, self.max_seq_len = n_items, 1
        clicked = _sets(train, n_items)
        together = (clicked.T @ clicked).tocsr()  # (N, N) sessions with both
        scale = sparse.diags(1 / np.sqrt(np.maximum(together.diagonal(), 1)))
        self._similar = (scale @ together @ scale).tocsr()
        self._similar.setdiag(0)
        self._similar.eliminate_zeros()

    def score_histories(self, histories: list[NDArray[np.int64]]) -> Tensor:
        """float32 (B, N), -inf where there is nothing in common."""
        newest = np.array([history[-1] for history in histories])
        return _answers(self._similar[newest].toarray())


class SessionNeighbours(nn.Module):
    """VMIS-kNN (Serenade, doi 10.1145/3514221.3517901): the sessions nearest to the newest clicks vote for their items.

    Of the `n_recent` newest sessions that share a click, the `n_neighbours` with the largest similarity
    sum over shared items of (place in the history, 1 for the oldest) / (distinct items of the history) vote:
    score(j) = sum over voters with j of similarity x max(0, 1 - 0.1 p) x idf(j), p = 1 where the voter has the newest
    click, 2 where it has only the one before, and so on; idf(j) = log(clicks / clicks of j). The newest click itself is
    no answer. The formula of the published code; it lets 1 - 0.1 p become negative for p > 10.
    """

    def __init__(self, config: NeighboursConfig, train: Sequences, n_items: int, ended: NDArray[np.int64]) -> None:
        """
        Args:
            ended: int64 (n,), a larger one ended later.
        """
        super().__init__()
        self.config, self.n_items, self.max_seq_len = config, n_items, config.max_seq_len
        lengths = train.lengths
        longest = np.quantile(lengths[lengths > 0], _LONGEST)
        rows = np.flatnonzero((lengths > 0) & (lengths <= longest))
        rows = rows[np.argsort(ended[rows], kind="stable")]  # session numbers from here on count up with time
        self._sets = _sets(train.take(rows), n_items)
        by_item = self._sets.tocsc()
        by_item.sort_indices()
        self._starts, self._sessions = by_item.indptr, by_item.indices
        counts = np.diff(self._starts)
        self._idf = np.log(counts.sum() / np.maximum(counts, 1)).astype(np.float32)

    def score_histories(self, histories: list[NDArray[np.int64]]) -> Tensor:
        """float32 (B, N), -inf for items that no voter has."""
        voters, votes = zip(*(self._votes(history[-self.max_seq_len :]) for history in histories), strict=True)
        ends = np.cumsum([0, *map(len, voters)])
        weights = sparse.csr_matrix(
            (np.concatenate(votes), np.concatenate(voters), ends), shape=(len(histories), self._sets.shape[0])
        )
        scores = (weights @ self._sets).toarray() * self._idf
        scores[np.arange(len(histories)), [history[-1] for history in histories]] = 0.0
        return _answers(scores)

    def _votes(self, history: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Numbers and votes of the nearest sessions."""
        newest_first, places = np.unique(history[::-1], return_index=True)  # of an item that repeats, its newest place
        found = [self._sessions[self._starts[item] : self._starts[item + 1]] for item in newest_first]
        found = [sessions[-self.config.n_recent :] for sessions in found]  # the others cannot be among the newest
        of_item = np.repeat(np.arange(len(found)), [len(sessions) for sessions in found])
        sessions, at = np.unique(np.concatenate(found), return_inverse=True)
        similarity = np.bincount(at, (len(history) - places[of_item]) / len(newest_first), minlength=len(sessions))
        nearest_place = np.full(len(sessions), len(history))
        np.minimum.at(nearest_place, at, places[of_item])
        kept = np.arange(len(sessions))[-self.config.n_recent :]
        kept = kept[np.lexsort((-kept, -similarity[kept]))][: self.config.n_neighbours]  # ties: the newer session
        votes = similarity[kept] * np.maximum(1 - 0.1 * (nearest_place[kept] + 1), 0)
        return sessions[kept], votes.astype(np.float32)


def ended_at(dataset: Dataset) -> NDArray[np.int64]:
    """int64 (sessions,): when each ended; without times its number, as public session sets count, else its row."""
    if dataset.timestamps is not None:
        ended: NDArray[np.int64] = np.maximum.reduceat(dataset.timestamps, dataset.sequences.offsets[:-1])
        return ended
    if all(name.isdecimal() for name in dataset.user_ids):
        return np.array([int(name) for name in dataset.user_ids])
    return np.arange(dataset.n_users)


def _sets(sessions: Sequences, n_items: int) -> sparse.csr_matrix:
    """float32 (n, N), 1 where the session has the item."""
    ones = np.ones(len(sessions.items), np.float32)
    counted = sparse.csr_matrix((ones, (sessions.rows, sessions.items)), shape=(len(sessions), n_items + 1))
    counted.data[:] = 1.0  # building sums repeats
    return counted


def _answers(scores: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.where(scores > 0, scores, -np.inf).astype(np.float32))
