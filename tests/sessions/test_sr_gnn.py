"""SR-GNN by positions against a slow one by nodes, written from the paper's equations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.config import SessionConfig
from models.layers import left_padding_mask
from models.sessions.build import start_evenly
from models.sessions.sr_gnn import SRGNNEncoder, session_edges

SESSIONS = [[3], [1, 2], [2, 2, 2], [1, 2, 3, 2, 4], [5, 1, 5, 1, 5], [4, 4, 1, 3, 3, 1, 2]]


def _padded(sessions: list[list[int]], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [[0] * (length - len(session)) + session for session in sessions]
    return torch.tensor(rows), torch.tensor([len(session) for session in sessions])


def _edges(session: list[int]) -> tuple[list[list[float]], list[list[float]]]:
    item_seq, seq_len = _padded([session], len(session))
    edges = session_edges(item_seq, left_padding_mask(seq_len, len(session)))
    return edges.incoming[0].tolist(), edges.outgoing[0].tolist()


def test_the_graph_of_a_session_with_a_repeat_is_the_one_drawn_by_hand() -> None:
    # a b c b d: edges a>b, b>c, c>b, b>d. Into b: a and c, half each. Out of b: c and d, half each.
    incoming, outgoing = _edges([1, 2, 3, 2, 4])
    nothing, of_b = [0.0] * 5, [0.0, 1.0, 0.0, 0.0, 0.0]  # b's place is its first, in both rows of b and for others
    assert incoming == [nothing, [0.5, 0, 0.5, 0, 0], of_b, [0.5, 0, 0.5, 0, 0], of_b]
    assert outgoing == [of_b, [0, 0, 0.5, 0, 0.5], of_b, [0, 0, 0.5, 0, 0.5], nothing]


def test_a_transition_that_repeats_counts_once() -> None:
    # a b a b a c: out of a go b (twice) and c; each weighs a half.
    incoming, outgoing = _edges([1, 2, 1, 2, 1, 3])
    assert outgoing[0] == [0.0, 0.5, 0.0, 0.0, 0.0, 0.5]
    assert outgoing[4] == outgoing[2] == outgoing[0]
    assert incoming[5] == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_a_click_on_the_same_item_again_is_an_edge_to_itself() -> None:
    incoming, outgoing = _edges([1, 1])
    assert incoming == outgoing == [[1.0, 0.0], [1.0, 0.0]]


def test_a_single_click_has_no_edges() -> None:
    assert _edges([7]) == ([[0.0]], [[0.0]])


@pytest.mark.parametrize("attention", ["sum", "softmax"])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_the_views_are_those_of_the_equations(attention: str, n_layers: int) -> None:
    torch.manual_seed(5)
    encoder = _encoder(attention, n_layers)
    table = torch.randn(6, 4)
    item_seq, seq_len = _padded(SESSIONS, 9)
    with torch.no_grad():
        local_view, global_view = encoder(table[item_seq], item_seq, seq_len)
    for row, session in enumerate(SESSIONS):
        local_slow, global_slow = _slow(encoder, table.numpy(), session, n_layers, attention == "softmax")
        np.testing.assert_allclose(local_view[row], local_slow, atol=1e-5)
        np.testing.assert_allclose(global_view[row], global_slow, atol=1e-5)


@pytest.mark.parametrize("attention", ["sum", "softmax"])
def test_neither_padding_nor_other_sessions_change_the_views(attention: str) -> None:
    torch.manual_seed(6)
    encoder = _encoder(attention, 1)
    table = torch.randn(6, 4)  # padding's row is no zero
    together = encoder(table[(rows := _padded(SESSIONS, 12))[0]], *rows)
    for row, session in enumerate(SESSIONS):
        alone = encoder(table[(one := _padded([session], len(session)))[0]], *one)
        for view, of_all in zip(alone, together, strict=True):
            torch.testing.assert_close(view[0], of_all[row], atol=1e-6, rtol=1e-5)


def test_an_empty_session_is_finite_and_the_same_at_any_length() -> None:
    torch.manual_seed(7)
    encoder = _encoder("softmax", 1)
    table = torch.randn(6, 4)
    found = [encoder(table[(rows := _padded([[]], length))[0]], *rows) for length in (1, 4)]
    for short, long in zip(*found, strict=True):
        assert torch.isfinite(short).all()
        torch.testing.assert_close(short, long)


def _encoder(attention: str, n_layers: int) -> SRGNNEncoder:
    config = SessionConfig.model_validate(
        {"kind": "session", "hidden_size": 4, "attention": attention, "n_layers": n_layers}
    )
    encoder = SRGNNEncoder(config)
    start_evenly(encoder, 2)
    return encoder


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-x)))


def _slow(
    encoder: SRGNNEncoder, table: NDArray[np.float32], session: list[int], n_layers: int, softmax: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Local and global view of one session, node by node and click by click (SR-GNN, equations 1 to 6)."""
    weights = {name: value.detach().double().numpy() for name, value in encoder.state_dict().items()}
    nodes = sorted(set(session))
    edges = set(itertools.pairwise(session))
    state = {node: table[node].astype(np.float64) for node in nodes}

    def linear(name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(weights[f"{name}.weight"] @ x + weights.get(f"{name}.bias", 0.0))

    for layer in range(n_layers):
        step, new_state = f"steps.{layer}", {}
        for node in nodes:
            before = [a for a, b in edges if b == node]
            after = [b for a, b in edges if a == node]
            zero = np.zeros(len(table[0]))
            from_before = sum((linear(f"{step}.read_in", state[a]) / len(before) for a in before), zero)
            from_after = sum((linear(f"{step}.read_out", state[b]) / len(after) for b in after), zero)
            told = np.concatenate([from_before + weights[f"{step}.bias_in"], from_after + weights[f"{step}.bias_out"]])
            r_told, z_told, n_told = np.split(linear(f"{step}.from_edges", told), 3)
            r_own, z_own, n_own = np.split(linear(f"{step}.from_state", state[node]), 3)
            update = _sigmoid(z_told + z_own)
            new = np.tanh(n_told + _sigmoid(r_told + r_own) * n_own)
            new_state[node] = new + update * (state[node] - new)
        state = new_state
    last = state[session[-1]]
    agreement = [
        linear("attention.weigh", _sigmoid(linear("attention.ask", last) + linear("attention.answer", state[item])))[0]
        for item in session
    ]
    if softmax:
        agreement = list(np.exp(agreement) / np.exp(agreement).sum())
    return last, sum((w * state[item] for w, item in zip(agreement, session, strict=True)), np.zeros(len(last)))
