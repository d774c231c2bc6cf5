"""Parts of multi-scenario backbones. B requests, C candidates of each, S scenarios, D width of what comes in.

Parameters of scenarios are stacked and a request gathers its own: no tower is run for a scenario it is not in, and the
exported graph has no branch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Backbone(nn.Module):
    """Logits (B, C) of candidates' features (B, C, D) in the scenarios (B,) of their requests.

    `forward(features, scenario_index, filled)`: filled bool (B, C) is false on empty slots, which statistics of a batch
    leave out.
    """

    def folded(self) -> nn.Module:
        """The same function in eval mode, with all that is constant by then multiplied out: what is exported."""
        return self


def pick(rows: Tensor, scenario_index: Tensor) -> Tensor:
    """`rows[scenario_index]` (B, ...) of rows (S, ...): a Gather whose gradient is summed row by row."""
    return F.embedding(scenario_index, rows.flatten(1)).unflatten(1, rows.shape[1:])


def of_scenario(streams: Tensor, scenario_index: Tensor) -> Tensor:
    """(B, C, size): the stream of each request's scenario, of streams (B, C, S, size) of all."""
    here = scenario_index[:, None, None, None].expand(-1, streams.shape[1], 1, streams.shape[3])
    return streams.gather(2, here)[:, :, 0]


def stacked_weights(n_stacked: int, d_in: int, d_out: int) -> nn.Parameter:
    """(n_stacked, d_in, d_out), each as `nn.Linear` starts."""
    return nn.Parameter(torch.empty(n_stacked, d_in, d_out).uniform_(-(d_in**-0.5), d_in**-0.5))


class PerScenario(nn.Module):
    """A linear layer of each scenario's own: (B, C, d_in) -> (B, C, d_out)."""

    def __init__(self, n_scenarios: int, d_in: int, d_out: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = stacked_weights(n_scenarios, d_in, d_out)
        self.bias = nn.Parameter(torch.zeros(n_scenarios, d_out)) if bias else None

    def forward(self, x: Tensor, scenario_index: Tensor) -> Tensor:
        out = x @ pick(self.weight, scenario_index)
        return out if self.bias is None else out + pick(self.bias, scenario_index)[:, None]


class Tower(nn.Module):
    """Each scenario's last two layers, without a ReLU on the logit: (B, C, d_in) -> (B, C)."""

    def __init__(self, n_scenarios: int, d_in: int, size: int) -> None:
        super().__init__()
        self.hidden = PerScenario(n_scenarios, d_in, size)
        self.out = PerScenario(n_scenarios, size, 1)

    def forward(self, x: Tensor, scenario_index: Tensor) -> Tensor:
        return self.out(F.relu(self.hidden(x, scenario_index)), scenario_index)[..., 0]


class Experts(nn.Module):
    """n experts, each one layer with a ReLU, in one product: (B, C, d_in) -> (B, C, n, size)."""

    def __init__(self, n_experts: int, d_in: int, size: int) -> None:
        super().__init__()
        self.n_experts = n_experts
        self.layer = nn.Linear(d_in, n_experts * size)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layer(x)).unflatten(-1, (self.n_experts, -1))


def mix(experts: Tensor, gate: Tensor) -> Tensor:
    """(..., size): experts (..., n, size) weighed by the softmax of gate (..., n)."""
    return (gate.softmax(-1)[..., None, :] @ experts)[..., 0, :]
