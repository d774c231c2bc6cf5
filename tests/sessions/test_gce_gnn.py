"""GCE-GNN's two graphs, worked by hand, and its attention against a slow one by nodes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.config import SessionConfig
from models.data.sequences import Sequences
from models.layers import left_padding_mask
from models.sessions.build import build_encoder, start_evenly
from models.sessions.gce_gnn import GCEGNNEncoder, global_neighbours

SESSIONS = [[3], [1, 2], [2, 2, 2], [1, 2, 3, 2, 4], [5, 1, 5, 1, 5]]


def test_neighbours_are_the_items_most_often_within_three_clicks() -> None:
    # 1 2 3 4 5: 1 is near 2, 3, 4. 1 2: once more. 2 1 2: 1 and 2 twice more; 2 to itself does not count.
    found = global_neighbours(Sequences.from_lists([[1, 2, 3, 4, 5], [1, 2], [2, 1, 2], []]), 6, 3)
    assert found.items[1].tolist() == [2, 3, 4]  # 3 and 4 tie: the lower first
    assert found.weights[1].tolist() == [4, 1, 1]
    assert found.items[5].tolist() == [2, 3, 4]
    assert found.items[6].tolist() == found.items[0].tolist() == [0, 0, 0]
    assert found.weights[6].tolist() == [0, 0, 0]


def test_sessions_too_short_for_neighbours_have_none() -> None:
    assert not global_neighbours(Sequences.from_lists([[1], [2]]), 2, 2).items.any()


def _encoder() -> GCEGNNEncoder:
    torch.manual_seed(4)
    config = SessionConfig.model_validate({"kind": "session", "encoder": "gce-gnn", "hidden_size": 4, "max_seq_len": 9})
    encoder = build_encoder(config, global_neighbours(Sequences.from_lists([*SESSIONS, [1, 3]]), 6, 2))
    assert isinstance(encoder, GCEGNNEncoder)
    start_evenly(encoder, 2)
    return encoder.eval()


def _views(encoder: GCEGNNEncoder, table: torch.Tensor, sessions: list[list[int]], length: int) -> torch.Tensor:
    item_seq = torch.tensor([[0] * (length - len(session)) + session for session in sessions])
    seq_len = torch.tensor([len(session) for session in sessions])
    with torch.no_grad():
        return torch.stack(encoder(table[encoder.reads(item_seq)], item_seq, seq_len))


def test_neither_padding_nor_other_sessions_change_the_views() -> None:
    encoder, table = _encoder(), torch.randn(7, 4)
    together = _views(encoder, table, [*SESSIONS, []], 9)
    for row, session in enumerate([*SESSIONS, []]):
        alone = _views(encoder, table, [session], max(len(session), 1))
        torch.testing.assert_close(alone[:, 0], together[:, row], atol=1e-6, rtol=1e-5)


def test_the_session_graph_tells_the_four_relations_apart() -> None:
    encoder, table = _encoder(), torch.randn(7, 4)
    for session in SESSIONS:
        item_seq = torch.tensor([session])
        mask = left_padding_mask(torch.tensor([len(session)]), len(session))
        with torch.no_grad():
            found = encoder._within(table[item_seq], item_seq, mask)[0]
        for at, item in enumerate(session):
            by_hand = _attended(encoder, table.double().numpy(), session, item)
            np.testing.assert_allclose(found[at], by_hand, atol=1e-5)


def _attended(encoder: GCEGNNEncoder, table: NDArray[np.float64], session: list[int], item: int) -> NDArray[np.float64]:
    """New state of `item`: attention over the distinct items beside it, by its relation to each (equations 7 to 9)."""
    relations = encoder.relations.detach().double().numpy()
    steps = {(a, b) for a, b in itertools.pairwise(session) if a != b}
    scores = {}
    for other in set(session):
        on, back = (item, other) in steps, (other, item) in steps
        if other != item and not on and not back:
            continue
        kind = 0 if other == item else 3 if on and back else 1 if on else 2
        score = float((table[item] * table[other] * relations[kind]).sum())
        scores[other] = score if score > 0 else 0.2 * score
    weights = np.exp(list(scores.values()))
    return np.asarray((weights[:, None] * table[list(scores)]).sum(0) / weights.sum())


def test_without_the_global_graph_it_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="neighbours of items in training sessions"):
        build_encoder(SessionConfig.model_validate({"kind": "session", "encoder": "gce-gnn"}))
