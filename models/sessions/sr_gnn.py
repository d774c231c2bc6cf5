"""SR-GNN (arXiv:1811.00855): a session as a graph of its items, read by a gated graph network and attention.

B batch, L length, D hidden_size. The paper numbers a session's distinct items and keeps a state for each. Here every
position keeps one, equal wherever the item is equal: the same numbers, and no data-dependent shape in the graph.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.config import SessionEncoderConfig
from models.layers import MASKED, left_padding_mask


class Edges(NamedTuple):
    """Adjacency between positions: row = who reads, column = the first position of the item that is read."""

    incoming: Tensor  # float32 (B, L, L): 1 / n over the n distinct items that were clicked just before the row's
    outgoing: Tensor  # float32 (B, L, L): 1 / n over the n distinct items that were clicked just after it


class Transitions(NamedTuple):
    """How the items at two positions t (row) and u (column) of a session are related; false on padding."""

    same: Tensor  # bool (B, L, L): it is one item
    onwards: Tensor  # bool (B, L, L): somewhere the item at u was clicked just after the item at t


def session_transitions(item_seq: Tensor, mask: Tensor) -> Transitions:
    """The transitions of item_seq (B, L), where mask (B, L) is true of the real clicks."""
    columns = torch.arange(item_seq.shape[1], device=item_seq.device)
    same = (item_seq[:, :, None] == item_seq[:, None, :]) & mask[:, :, None] & mask[:, None, :]
    # Row p of `after`: where the item at p + 1 stands. The last position is followed by nothing.
    after = same[:, (columns + 1).clamp(max=columns[-1])] & (columns < columns[-1])[None, :, None]
    return Transitions(same, same.float() @ after.float() > 0)


def first_positions(same: Tensor, mask: Tensor) -> Tensor:
    """bool (B, L), true where an item stands for the first time: one position speaks for each item."""
    columns = torch.arange(mask.shape[1], device=mask.device)
    return mask & ~(same & (columns[None, :] < columns[:, None])).any(-1)


def session_edges(item_seq: Tensor, mask: Tensor) -> Edges:
    """The normalised session graph of item_seq (B, L) by its mask; a transition that repeats counts once."""
    same, onwards = session_transitions(item_seq, mask)
    first = first_positions(same, mask).to(torch.float32)
    follows = onwards.to(torch.float32)
    outgoing = follows * first[:, None, :]
    incoming = follows.transpose(1, 2) * first[:, None, :]
    return Edges(
        incoming / incoming.sum(-1, keepdim=True).clamp(min=1), outgoing / outgoing.sum(-1, keepdim=True).clamp(min=1)
    )


class GatedGraphStep(nn.Module):
    """States (B, L, D) after one exchange along the session graph (equations 1 to 5)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read_in = nn.Linear(width, width)
        self.read_out = nn.Linear(width, width)
        self.bias_in = nn.Parameter(torch.empty(width))
        self.bias_out = nn.Parameter(torch.empty(width))
        self.from_edges = nn.Linear(2 * width, 3 * width)
        self.from_state = nn.Linear(width, 3 * width)

    def forward(self, states: Tensor, edges: Edges) -> Tensor:
        told = torch.cat(
            [
                edges.incoming @ self.read_in(states) + self.bias_in,
                edges.outgoing @ self.read_out(states) + self.bias_out,
            ],
            dim=-1,
        )
        reset_in, update_in, new_in = self.from_edges(told).chunk(3, dim=-1)
        reset, update, new = self.from_state(states).chunk(3, dim=-1)
        candidate = torch.tanh(new_in + torch.sigmoid(reset_in + reset) * new)
        return candidate + torch.sigmoid(update_in + update) * (states - candidate)


class SoftAttention(nn.Module):
    """Global view (B, D): states (B, L, D) weighed by how they agree with the newest one (equation 6).

    As published the weights are not normalised (`sum`); `softmax` makes them a mean over the real positions.
    """

    def __init__(self, width: int, *, softmax: bool) -> None:
        super().__init__()
        self.softmax = softmax
        self.ask = nn.Linear(width, width)
        self.answer = nn.Linear(width, width)
        self.weigh = nn.Linear(width, 1, bias=False)

    def forward(self, local_view: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        scores = self.weigh(torch.sigmoid(self.ask(local_view)[:, None] + self.answer(states)))  # (B, L, 1)
        if self.softmax:
            scores = torch.where(mask[..., None], scores, MASKED).softmax(1)
        return torch.where(mask[..., None], scores * states, 0.0).sum(1)


class SRGNNEncoder(nn.Module):
    """local: the newest click's state; global: soft attention over the clicks, repeats each for itself."""

    def __init__(self, config: SessionEncoderConfig) -> None:
        super().__init__()
        self.hidden_size = config.hidden_size
        self.steps = nn.ModuleList(GatedGraphStep(config.hidden_size) for _ in range(config.n_layers))
        self.attention = SoftAttention(config.hidden_size, softmax=config.attention == "softmax")

    def forward(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> tuple[Tensor, Tensor]:
        mask = left_padding_mask(seq_len, item_seq.shape[1])
        edges = session_edges(item_seq, mask)
        states = vectors
        for step in self.steps:
            states = step(states, edges)
        local_view = states[:, -1]
        return local_view, self.attention(local_view, states, mask)
