from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from msr_fakes import msr_config, shop_knowledge, small_shop
from rich.console import Console

from models import runs
from models.data.dataset import read_dataset
from models.errors import RunError
from models.meta_report import _cosines, as_lines, describe_meta_layers
from models.train import train


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shop(tmp_path_factory.mktemp("report") / "shop")


@pytest.fixture(scope="module")
def trained(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    knowledge = shop_knowledge(read_dataset(shop), "global_time", tmp_path_factory.mktemp("report") / "knowledge")
    folder = tmp_path_factory.mktemp("report") / "run"
    train(msr_config(shop, knowledge), folder, Console(quiet=True))
    return folder


def test_cosines_are_those_of_rows() -> None:
    found = _cosines(torch.tensor([[3.0, 4.0], [4.0, 3.0], [0.0, 0.0]]))
    assert found[0].tolist() == pytest.approx([1.0, 24 / 25, 0.0])


def test_two_scenarios_are_compared_by_vectors_and_by_layers(trained: Path) -> None:
    report = describe_meta_layers(trained)
    assert report["scenarios"] == ["deals", "home", "search"]
    assert list(report["similarity"]) == ["LLM vectors, centred", "generated layer 1", "generated layer 2"]
    model = runs.load_run(trained).model
    weight, bias = model.scenario_level.generated()[1]
    rows = torch.cat([weight.flatten(1), bias], dim=1)
    expected = torch.nn.functional.cosine_similarity(rows[0], rows[2], dim=0).item()
    assert report["similarity"]["generated layer 2"][0][2] == pytest.approx(expected, abs=1e-3)
    assert all(found["std"] > 0 for found in report["moved"].values())
    lines = as_lines(report, "search", "deals")
    assert lines[0] == "deals and search"
    assert len(lines) == 1 + 3 + 1 + 2
    assert len([line for line in as_lines(report, None, None) if " and " in line]) == 3
    assert json.loads((trained / "meta_layers.json").read_text()) == report
    assert "<svg" in (trained / "meta_layers.html").read_text()


def test_a_scenario_that_is_not_there_is_named(trained: Path) -> None:
    with pytest.raises(RunError, match="scenario 'cellar' is unknown, expected one of deals, home, search"):
        as_lines(describe_meta_layers(trained), "cellar", "home")


def test_a_plain_backbone_has_nothing_to_show(shop: Path, tmp_path: Path) -> None:
    train(msr_config(shop, None, user_level=False, scenario_level=False), tmp_path / "run", Console(quiet=True))
    with pytest.raises(RunError, match="has no layers that are generated for scenarios"):
        describe_meta_layers(tmp_path / "run")
