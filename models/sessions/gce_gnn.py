"""GCE-GNN (arXiv:2106.05081): what items lead to in this session, and what they lie beside in all sessions.

B batch, L length, K neighbours, D hidden_size. As in `sr_gnn`, every position keeps a state, equal where the item is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from models.config import SessionEncoderConfig
from models.data.sequences import Sequences
from models.layers import MASKED, Dropout, left_padding_mask
from models.sessions.sr_gnn import first_positions, session_transitions

REACH = 3  # clicks between neighbours of the global graph, epsilon of the paper
_SLOPE = 0.2  # of LeakyReLU


class Neighbours(NamedTuple):
    """The global graph: the items that were most often clicked near each item."""

    items: NDArray[np.int64]  # (n_items + 1, K), 0 where there are fewer
    weights: NDArray[np.float32]  # (n_items + 1, K), how often


def global_neighbours(train: Sequences, n_items: int, k: int) -> Neighbours:
    """The k items most often within REACH clicks of each item, either side, in training sessions; ties to the lower."""
    size = n_items + 1
    near = sparse.csr_matrix((size, size), dtype=np.float32)
    for distance in range(1, REACH + 1):
        within = train.rows[distance:] == train.rows[:-distance]
        left, right = train.items[:-distance][within], train.items[distance:][within]
        ones = np.ones(len(left), np.float32)
        near = near + sparse.csr_matrix((ones, (left, right)), shape=(size, size))
    near = (near + near.T).tocsr()
    near.setdiag(0)
    near.eliminate_zeros()
    rows = np.repeat(np.arange(size), np.diff(near.indptr))
    order = np.lexsort((near.indices, -near.data, rows))
    place = np.arange(len(rows)) - near.indptr[rows]
    kept = order[place < k]  # sorted by row: the first k of each
    items, weights = np.zeros((size, k), np.int64), np.zeros((size, k), np.float32)
    at = (rows[kept], place[place < k])
    items[at], weights[at] = near.indices[kept], near.data[kept]
    return Neighbours(items, weights)


class GCEGNNEncoder(nn.Module):
    """local: the newest click's state; global: soft attention over the clicks and how long ago they were.

    Its vectors (B, L, 1 + K, D) are those of `reads`: each click's item and its neighbours. Neighbours that an item
    lacks are masked; the published code lets padding take part.
    """

    neighbours: Tensor
    weights: Tensor

    def __init__(self, config: SessionEncoderConfig, neighbours: Neighbours) -> None:
        super().__init__()
        width = self.hidden_size = config.hidden_size
        # Counted anew from the training sessions of a run, so no part of its weights.
        self.register_buffer("neighbours", torch.from_numpy(neighbours.items), persistent=False)
        self.register_buffer("weights", torch.from_numpy(neighbours.weights), persistent=False)
        self.relations = nn.Parameter(torch.empty(4, width))  # to itself, onwards, backwards, both ways
        self.ask_neighbours = nn.Linear(width + 1, width, bias=False)
        self.weigh_neighbours = nn.Linear(width, 1, bias=False)
        self.mix_neighbours = nn.Linear(2 * width, width, bias=False)
        self.dropout = Dropout(config.dropout)
        self.positions = nn.Parameter(torch.empty(config.max_seq_len, width))  # row 0 is the newest click's
        self.place = nn.Linear(2 * width, width, bias=False)
        self.of_click = nn.Linear(width, width)
        self.of_mean = nn.Linear(width, width, bias=False)
        self.weigh = nn.Linear(width, 1, bias=False)

    def reads(self, item_seq: Tensor) -> Tensor:
        """int64 (B, L, 1 + K): the items whose vectors stand for each click."""
        return torch.cat([item_seq[..., None], self.neighbours[item_seq]], dim=-1)

    def forward(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> tuple[Tensor, Tensor]:
        mask = left_padding_mask(seq_len, item_seq.shape[1])
        clicks = torch.where(mask[..., None], vectors[:, :, 0], 0.0)
        n_clicks = seq_len.clamp(min=1)[:, None]
        beside = self._beside(clicks, vectors[:, :, 1:], item_seq, clicks.sum(1) / n_clicks)
        states = self._within(clicks, item_seq, mask) + self.dropout(beside)
        states = torch.where(mask[..., None], states, 0.0)
        ago = torch.arange(item_seq.shape[1] - 1, -1, -1, device=item_seq.device)
        placed = self.place(torch.cat([self.positions[ago].expand_as(states), states], dim=-1))
        asked = self.of_mean(states.sum(1) / n_clicks)[:, None]
        weights = self.weigh(torch.sigmoid(self.of_click(torch.tanh(placed)) + asked))  # (B, L, 1)
        return states[:, -1], (weights * states).sum(1)

    def _within(self, clicks: Tensor, item_seq: Tensor, mask: Tensor) -> Tensor:
        """(B, L, D): each click's item by attention over what it leads to and comes from here (section 4.2)."""
        same, onwards = session_transitions(item_seq, mask)
        backwards = onwards.transpose(1, 2)
        products = (clicks[:, :, None, :] * self.relations) @ clicks[:, None].transpose(-1, -2)  # (B, L, 4, L)
        itself, on, back, both = F.leaky_relu(products, _SLOPE).unbind(2)
        scores = torch.where(onwards & backwards, both, torch.where(onwards, on, back))
        scores = torch.where(same, itself, scores)
        allowed = (same | onwards | backwards) & first_positions(same, mask)[:, None, :]
        attention = torch.where(allowed, scores, MASKED).softmax(-1)
        return attention @ clicks

    def _beside(self, clicks: Tensor, around: Tensor, item_seq: Tensor, mean: Tensor) -> Tensor:
        """(B, L, D): each click's item with its neighbours (B, L, K, D), as they suit the session (section 4.1)."""
        weights = self.weights[item_seq][..., None]  # (B, L, K, 1)
        asked = self.ask_neighbours(torch.cat([mean[:, None, None, :] * around, weights], dim=-1))
        scores = self.weigh_neighbours(F.leaky_relu(asked, _SLOPE))
        attention = torch.where(weights > 0, scores, MASKED).softmax(2)
        told = torch.where(weights > 0, attention * around, 0.0).sum(2)
        return torch.relu(self.mix_neighbours(torch.cat([clicks, told], dim=-1)))
