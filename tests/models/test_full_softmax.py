import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.full_softmax import BLOCK, full_softmax


def _inputs(n_items: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(3)
    states = (scale * torch.randn(4, 3, generator=drawn, dtype=torch.float64)).requires_grad_()
    rows = torch.randn(n_items, 3, generator=drawn, dtype=torch.float64).requires_grad_()
    # Twice the same target: its row is taught by both. The last one lies in the last block.
    return states, rows, torch.tensor([0, 1, 0, n_items - 1])


@pytest.mark.parametrize("n_items", [2, BLOCK, BLOCK + 1, 3 * BLOCK - 5])
def test_blocks_give_the_loss_and_the_gradients_of_the_whole_catalogue(n_items: int) -> None:
    states, rows, targets = _inputs(n_items)
    loss = 3 * full_softmax(states, rows, targets)
    found = torch.autograd.grad(loss, (states, rows))
    whole = 3 * F.cross_entropy(states @ rows.T, targets)
    torch.testing.assert_close(loss, whole)
    torch.testing.assert_close(found, torch.autograd.grad(whole, (states, rows)))


def test_scores_far_apart_between_blocks_neither_overflow_nor_vanish() -> None:
    states, rows, targets = _inputs(2 * BLOCK, scale=1e4)
    loss = full_softmax(states, rows, targets)
    torch.testing.assert_close(loss, F.cross_entropy(states @ rows.T, targets))
    assert all(torch.isfinite(part).all() for part in torch.autograd.grad(loss, (states, rows)))
