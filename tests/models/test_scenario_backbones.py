"""Mixing of every backbone against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from models.config import LLM4MSRConfig
from models.scenario_backbones.aitm import AITM, Transfer
from models.scenario_backbones.build import build_scenario_backbone
from models.scenario_backbones.mmoe import MMoE
from models.scenario_backbones.parts import Experts, mix
from models.scenario_backbones.pepnet import PEPNet, TowerGate
from models.scenario_backbones.ple import PLE
from models.scenario_backbones.shared_bottom import SharedBottom
from models.scenario_backbones.star import EPSILON, STAR, PartitionedNorm, StarLinear

KINDS = ("shared-bottom", "mmoe", "ple", "star", "aitm", "pepnet")


def _set(parameter: Tensor, values: object) -> None:
    with torch.no_grad():
        parameter.copy_(torch.tensor(values, dtype=torch.float32).reshape(parameter.shape))


def _config(kind: str, **more: object) -> LLM4MSRConfig:
    return LLM4MSRConfig.model_validate({"kind": "llm4msr", "backbone": kind, "width": 6, **more})


def test_experts_are_mixed_by_the_softmax_of_the_gate() -> None:
    experts = torch.tensor([[[[1.0, 0.0], [0.0, 10.0]]]])  # one slot, two experts of size 2
    gate = torch.tensor([[[0.0, math.log(3.0)]]])  # weights 1/4 and 3/4
    assert mix(experts, gate)[0, 0].tolist() == pytest.approx([0.25, 7.5])


def test_mmoe_reads_its_experts_by_the_gate_of_the_requests_scenario() -> None:
    model = MMoE(n_scenarios=2, width=1, n_experts=2, expert=1, tower=1)
    _set(model.experts.layer.weight, [2.0, 5.0])  # experts 2x and 5x
    _set(model.experts.layer.bias, [0.0, 0.0])
    _set(model.gates.weight, [[[0.0, 0.0]], [[math.log(4.0), 0.0]]])  # scenario 1 trusts the first 4 : 1 at x = 1
    x = torch.ones(2, 1, 1)
    # scenario 0: 2/2 + 5/2 = 3.5; scenario 1: 4/5 x 2 + 1/5 x 5 = 2.6
    assert model.mixed(x, torch.tensor([0, 1]))[:, 0, 0].tolist() == pytest.approx([3.5, 2.6])


def test_ple_with_one_level_mixes_the_scenarios_own_experts_with_the_shared_ones() -> None:
    model = PLE(n_scenarios=2, width=1, n_levels=1, n_specific=1, n_shared=1, expert=1, tower=1)
    _set(model.own.weight, [[[1.0]], [[3.0]]])
    _set(model.own.bias, [[0.0], [0.0]])
    _set(model.shared.layer.weight, [7.0])
    _set(model.shared.layer.bias, [0.0])
    _set(model.gates.weight, [[[0.0, 0.0]], [[math.log(3.0), 0.0]]])
    # scenario 0: (1 + 7) / 2 = 4; scenario 1: 3/4 x 3 + 1/4 x 7 = 4
    assert model.mixed(torch.ones(2, 1, 1), torch.tensor([0, 1]))[:, 0, 0].tolist() == pytest.approx([4.0, 4.0])
    # another scenario's own expert plays no part
    _set(model.own.weight, [[[1.0]], [[-3.0]]])  # below the ReLU: 0, so 1/4 x 7
    assert model.mixed(torch.ones(2, 1, 1), torch.tensor([0, 1]))[:, 0, 0].tolist() == pytest.approx([4.0, 1.75])


def test_ple_with_two_levels_gives_the_shared_stream_every_scenarios_experts() -> None:
    model = PLE(n_scenarios=2, width=1, n_levels=2, n_specific=1, n_shared=1, expert=1, tower=1)
    level = model.lower[0]
    _set(level.specific_weight, [[[1.0]], [[4.0]]])
    _set(level.shared.layer.weight, [7.0])
    for bias in (level.specific_bias, level.shared.layer.bias, model.own.bias, model.shared.layer.bias):
        nn.init.zeros_(bias)
    for gate in (level.gate_weight, level.shared_gate.weight, model.gates.weight):
        nn.init.zeros_(gate)  # every gate weighs alike
    _set(model.own.weight, [[[1.0]], [[1.0]]])
    _set(model.shared.layer.weight, [1.0])
    # level 1: streams (1 + 7) / 2 = 4 and (4 + 7) / 2 = 5.5, shared (1 + 4 + 7) / 3 = 4; level 2: half of each
    found = model.mixed(torch.ones(2, 1, 1), torch.tensor([0, 1]))[:, 0, 0]
    assert found.tolist() == pytest.approx([4.0, 4.75])


def test_star_multiplies_the_scenarios_weights_with_the_shared_ones_and_adds_the_biases() -> None:
    layer = StarLinear(n_scenarios=2, d_in=2, d_out=1)
    _set(layer.shared, [[2.0], [3.0]])
    _set(layer.shared_bias, [1.0])
    _set(layer.own, [[[1.0], [1.0]], [[5.0], [-1.0]]])
    _set(layer.own_bias, [[0.0], [10.0]])
    x = torch.tensor([[[1.0, 2.0]], [[1.0, 2.0]]])
    # scenario 0: 2 + 6 + 1; scenario 1: 5 x 2 - 3 x 2 + 10 + 1
    assert layer(x, torch.tensor([0, 1]))[:, 0, 0].tolist() == pytest.approx([9.0, 15.0])


def test_partitioned_normalisation_takes_the_statistics_of_filled_slots_of_one_scenario() -> None:
    norm = PartitionedNorm(n_scenarios=2, width=1, momentum=0.5)
    x = torch.tensor([[[1.0], [3.0]], [[10.0], [777.0]], [[14.0], [18.0]]])
    filled = torch.tensor([[True, True], [True, False], [True, True]])
    scenario = torch.tensor([0, 1, 1])
    out = norm.train()(x, scenario, filled)
    # scenario 0: mean 2, variance 1; scenario 1: 10, 14, 18: mean 14, variance 32/3
    assert out[0, :, 0].tolist() == pytest.approx([-1.0, 1.0], abs=1e-4)
    assert out[1, 0, 0].item() == pytest.approx(-4 / math.sqrt(32 / 3 + EPSILON))
    assert norm.mean[:, 0].tolist() == pytest.approx([1.0, 7.0])  # half way from 0
    assert norm.variance[:, 0].tolist() == pytest.approx([1.0, (1 + 32 / 3) / 2])


def test_aitm_gives_the_first_scenario_its_own_bottom_and_the_next_a_share_of_what_it_is_told() -> None:
    model = AITM(n_scenarios=2, width=1, size=1, tower=1)
    _set(model.bottoms.layer.weight, [2.0, 5.0])  # q_0 = 2, q_1 = 5 at x = 1
    _set(model.bottoms.layer.bias, [0.0, 0.0])
    _set(model.told[0].weight, [3.0])  # p_0 = 3 x 2 = 6
    _set(model.told[0].bias, [0.0])
    _set(model.transfer.h1.weight, [1.0])
    _set(model.transfer.h2.weight, [math.log(3.0) / 11])  # 36 and 25 elevenths of log 3: weights 3/4 and 1/4
    _set(model.transfer.h3.weight, [2.0])
    # scenario 0: no transfer, not even h3; scenario 1: 3/4 x 2 x 6 + 1/4 x 2 x 5
    assert model.links(torch.ones(1, 1, 1))[0, 0, :, 0].tolist() == pytest.approx([2.0, 11.5])


def test_what_aitm_transfers_runs_down_the_whole_chain_and_never_up() -> None:
    torch.manual_seed(4)
    model = AITM(n_scenarios=3, width=6, size=4, tower=4)
    x = torch.randn(1, 5, 6)
    before = model.links(x)
    with torch.no_grad():
        model.bottoms.layer.bias[4:8] += 1.0  # of scenario 1
    after = model.links(x)
    torch.testing.assert_close(after[:, :, 0], before[:, :, 0])
    assert not torch.allclose(after[:, :, 1], before[:, :, 1])
    assert not torch.allclose(after[:, :, 2], before[:, :, 2])


def test_aitm_attends_by_the_scaled_product_and_its_weights_sum_to_one() -> None:
    transfer = Transfer(size=4)
    for projection in (transfer.h1, transfer.h2):
        _set(projection.weight, torch.eye(4).tolist())
    u = torch.zeros(1, 1, 2, 4)
    u[0, 0, 0, 0] = 2.0  # <u, u> = 4, over the root of 4 is 2; the other is 0
    expected = math.exp(2) / (math.exp(2) + 1)
    assert transfer.weights(u)[0, 0].tolist() == pytest.approx([expected, 1 - expected])
    torch.testing.assert_close(Transfer(4).weights(torch.randn(3, 5, 2, 4)).sum(-1), torch.ones(3, 5))


def test_one_scenario_alone_has_no_transfer() -> None:
    model = AITM(n_scenarios=1, width=6, size=4, tower=4)
    x, scenario = torch.randn(2, 3, 6), torch.zeros(2, dtype=torch.int64)
    expected = model.tower(model.bottoms(x)[:, :, 0], scenario)
    torch.testing.assert_close(model(x, scenario, torch.ones(2, 3, dtype=torch.bool)), expected)


def test_a_gate_of_pepnet_is_two_sigmoids_of_two_layers() -> None:
    gate = TowerGate(n_scenarios=2, d_in=2, d_out=1)
    _set(gate.hidden.weight, [1.0, -1.0])
    _set(gate.hidden.bias, [0.0])
    _set(gate.out.weight, [[[math.log(3.0)]], [[-math.log(3.0)]]])
    v = torch.tensor([[[2.0, 1.0], [1.0, 2.0]]]).expand(2, -1, -1)
    # (2, 1): 1 before the ReLU, sigmoid(+-log 3) = 3/4 or 1/4; (1, 2): 0 after it
    assert gate(v, torch.tensor([0, 1]))[..., 0].tolist() == [pytest.approx([1.5, 1.0]), pytest.approx([0.5, 1.0])]


def _silence_gates(model: PEPNet) -> None:
    """Every gate says sigmoid(0)."""
    for parameters in (model.domain_gate.out, *(gate.out for gate in model.tower_gates)):
        nn.init.zeros_(parameters.weight)
        nn.init.zeros_(parameters.bias)


def test_gates_of_pepnet_that_say_nothing_leave_the_tower_as_it_is() -> None:
    torch.manual_seed(5)
    model = PEPNet(n_scenarios=2, width=6, hidden=(8, 4), embedding=3)
    _silence_gates(model)
    x, scenario = torch.randn(3, 4, 6), torch.tensor([0, 1, 0])
    first, second, last = model.layers
    tower = last(torch.relu(second(torch.relu(first(x, scenario)), scenario)), scenario)[..., 0]
    torch.testing.assert_close(model(x, scenario, torch.ones(3, 4, dtype=torch.bool)), tower)


def test_pepnet_scales_the_features_for_all_and_each_layer_by_its_scenario() -> None:
    model = PEPNet(n_scenarios=2, width=1, hidden=(1,), embedding=1)
    _silence_gates(model)
    _set(model.domain_gate.out.bias, [math.log(3.0)])  # 2 x 3/4: O = 1.5 x 4 = 6
    _set(model.tower_gates[0].out.bias, [[0.0], [math.log(3.0)]])
    _set(model.layers[0].weight, [[[2.0]], [[2.0]]])
    _set(model.layers[1].weight, [[[1.0]], [[-1.0]]])
    found = model(torch.full((2, 1, 1), 4.0), torch.tensor([0, 1]), torch.ones(2, 1, dtype=torch.bool))
    # scenario 0: 6 x 2 x 1; scenario 1: 6 x 1.5 x 2 x -1
    assert found[:, 0].tolist() == pytest.approx([12.0, -18.0])


def test_a_gate_of_pepnet_does_not_shape_what_it_reads() -> None:
    torch.manual_seed(6)
    model = PEPNet(n_scenarios=2, width=6, hidden=(4,), embedding=3)
    x = torch.randn(2, 3, 6, requires_grad=True)
    scaled = model.scaled(x, torch.tensor([0, 1]))
    scaled.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, scaled.detach() / x.detach())  # delta, as if it were constant


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_depends_on_no_other_candidate_and_folding_changes_nothing(kind: str) -> None:
    torch.manual_seed(1)
    model = build_scenario_backbone(_config(kind, n_levels=2), 3)
    x, scenario = torch.randn(4, 200, 6), torch.tensor([0, 1, 2, 1])
    filled = torch.ones(4, 200, dtype=torch.bool)
    model.train()
    for _ in range(3):  # statistics that are not those of the start
        model(1 + 2 * x, scenario, filled)
    model.eval()
    with torch.no_grad():
        together = model(x, scenario, filled)
        alone = model(x[:, 7:8], scenario, filled[:, :1])
        folded = model.folded().eval()
        assert together.shape == (4, 200)
        torch.testing.assert_close(alone[:, 0], together[:, 7], atol=1e-6, rtol=0)
        torch.testing.assert_close(folded(x, scenario, filled), together, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_logit_can_be_negative_and_positive(kind: str) -> None:
    torch.manual_seed(2)
    model = build_scenario_backbone(_config(kind), 2).eval()
    logits = model(3 * torch.randn(8, 50, 6), torch.arange(8) % 2, torch.ones(8, 50, dtype=torch.bool))
    assert logits.min() < 0 < logits.max()


def test_experts_are_computed_in_one_product() -> None:
    experts = Experts(n_experts=3, d_in=2, size=4)
    x = torch.randn(5, 6, 2)
    one = torch.relu(x @ experts.layer.weight[4:8].T + experts.layer.bias[4:8])
    torch.testing.assert_close(experts(x)[:, :, 1], one)


def test_shared_bottom_gives_each_scenario_its_own_tower() -> None:
    model = SharedBottom(n_scenarios=2, width=1, bottom=1, tower=1)
    _set(model.bottom.weight, [1.0])
    _set(model.bottom.bias, [0.0])
    _set(model.tower.hidden.weight, [[[2.0]], [[3.0]]])
    _set(model.tower.out.weight, [[[1.0]], [[-1.0]]])
    nn.init.zeros_(model.tower.hidden.bias)
    nn.init.zeros_(model.tower.out.bias)
    found = model(torch.full((2, 1, 1), 4.0), torch.tensor([0, 1]), torch.ones(2, 1, dtype=torch.bool))
    assert found[:, 0].tolist() == pytest.approx([8.0, -12.0])


def test_star_is_the_sum_of_both_networks() -> None:
    torch.manual_seed(3)
    model = STAR(2, 6, (8, 4), 5).eval()
    x, scenario, filled = torch.randn(3, 4, 6), torch.tensor([0, 1, 0]), torch.ones(3, 4, dtype=torch.bool)
    whole = model(x, scenario, filled)
    nn.init.zeros_(model.auxiliary.out.weight)
    nn.init.constant_(model.auxiliary.out.bias, 2.0)
    without = model(x, scenario, filled) - 2.0
    assert not torch.allclose(whole, without)
    _set(model.layers[-1].shared, torch.zeros(4, 1).tolist())
    torch.testing.assert_close(model(x, scenario, filled), torch.full((3, 4), 2.0))
