"""Cross entropy over a whole catalogue, block by block of items.

The same number as `F.cross_entropy(states @ rows.T, targets)` and the same gradients. Scores of a block stay in the
processor's cache from the product that makes them to the sum that reads them, and no tensor of the size of all scores
is written for the gradient: a training step over 12,101 items takes three quarters of the time (docs/results.md,
LLM4SBR).
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

BLOCK: Final = 1024  # items; of the sizes 512 to 4,096 the fastest or as fast as the fastest


def full_softmax(states: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    """Scalar mean of -log softmax(<state, row>) at the targets: states (P, D), rows (N, D), targets (P,) in 0..N-1."""
    loss: Tensor = _FullSoftmax.apply(states, rows, targets)
    return loss


class _FullSoftmax(Function):
    """P states, N rows, b a block of them. Each block is exponentiated from its own highest score, rescaled later."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        blocks, tops, sums = [], [], []
        for part in rows.split(BLOCK):
            scores = states @ part.T  # (P, b)
            top = scores.amax(1)
            blocks.append(scores.sub_(top[:, None]).exp_())
            tops.append(top)
            sums.append(blocks[-1].sum(1))
        high = torch.stack(tops)  # (n_blocks, P)
        top = high.amax(0)
        rescale = (high - top).exp()
        total = (torch.stack(sums) * rescale).sum(0)
        ctx.save_for_backward(states, rows, targets, rescale / total, *blocks)
        chosen = (states * rows[targets]).sum(-1)
        return (total.log() + top - chosen).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        states, rows, targets, weights, *blocks = ctx.saved_tensors
        scale = gradient / len(states)
        of_states, of_rows = torch.zeros_like(states), torch.empty_like(rows)
        for block, weight, part, out in zip(
            blocks, (weights * scale)[..., None], rows.split(BLOCK), of_rows.split(BLOCK), strict=True
        ):
            of_states.add_((block @ part).mul_(weight))
            torch.mm(block.T, states * weight, out=out)
        of_states.sub_(rows[targets] * scale)
        of_rows.index_add_(0, targets, states * -scale)
        return of_states, of_rows, None
