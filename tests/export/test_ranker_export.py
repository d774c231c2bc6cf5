"""A ranker's run becomes an artefact that gives torch's scores, whatever is ranked beside a candidate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from rich.console import Console

from export.baselines import write_baseline
from export.graphs import RankerGraph
from export.ranker import check_ranker_parity, torch_scores, write_ranker_artefact
from export.to_onnx import write_ranker
from models.config import RunConfig
from models.data.dataset import read_dataset
from models.data.folder import write_dataset
from models.data.sample_shop import make_shop
from models.data.splits import SPLITS
from models.evaluate import evaluate
from models.knowledge.encoders import HashEncoder
from models.knowledge.meta import build_meta, usable_users
from models.knowledge.meta_command import told_by_prompts
from models.runs import Run, load_run
from models.train import train
from service.artefact.check import check_report
from service.artefact.ranker_directory import RankerArtefact, open_ranker
from service.artefact.user_z import read_user_z, write_user_z
from service.errors import ArtefactError, ArtefactRefused, SettingsError, UnknownItemIndex
from service.inference.ranker import Ranker, RankRow
from service.inference.ranker_golden import check_ranker_golden
from service.inference.runtime import make_session
from service.registry import Registry, load_registry
from service.settings import Settings

KINDS = ("shared-bottom", "mmoe", "ple", "star", "aitm", "pepnet")
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranker") / "shop"
    made = make_shop(seed=3, n_users=40, n_items=30)
    write_dataset(folder, made.interactions, made.items, impressions=made.impressions)
    return folder


@pytest.fixture(scope="module")
def knowledge(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dataset = read_dataset(shop)
    split = SPLITS["global_time"](dataset)
    folder = tmp_path_factory.mktemp("ranker") / "knowledge"
    usable = usable_users(dataset, split, dataset, split)
    told = told_by_prompts(dataset, split)
    build_meta(dataset, split, told, usable, folder, HashEncoder(), QUIET, future_visible=False)
    return folder


@pytest.fixture(scope="module")
def trained(shop: Path, knowledge: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of a backbone, one epoch, with its levels or plain."""

    def make(kind: str, *, plain: bool = False) -> Run:
        sizes = {"embedding_size": 4, "width": 6, "hidden_sizes": [8, 4], "tower_size": 4, "expert_size": 4}
        levels = {"user_level": False, "scenario_level": False} if plain else {"z_size": 5, "n_levels": 2}
        config = RunConfig.model_validate(
            {
                "name": "shop-msr",
                "seed": 5,
                "data": {"dataset": shop, "split": "global_time", "knowledge": knowledge},
                "model": {"kind": "llm4msr", "backbone": kind, "max_seq_len": 5, **sizes, **levels},
                "train": {"batch_size": 16, "max_epochs": 1, "device": "cpu", "learning_rate": 0.05},
            }
        )
        folder = tmp_path_factory.mktemp("runs") / "run"
        train(config, folder, QUIET)
        evaluate(folder, QUIET)
        return load_run(folder)

    return make


@pytest.fixture(scope="module")
def run(trained: Any) -> Run:
    made: Run = trained("star")
    return made


@pytest.fixture(scope="module")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ranker_artefact(run, tmp_path_factory.mktemp("artefacts"))


@pytest.fixture(scope="module")
def artefact(exported: Path) -> RankerArtefact:
    return open_ranker(exported)


@pytest.fixture(scope="module")
def ranker(artefact: RankerArtefact) -> Ranker:
    return Ranker(artefact, intra_op_threads=1, device="cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_every_backbone_gives_torchs_scores_in_onnx(kind: str, trained: Any, tmp_path: Path) -> None:
    graph = RankerGraph(trained(kind).model)
    spec = graph.spec(["deals", "home", "search"])
    np.save(tmp_path / "items.npy", graph.items.numpy())
    write_ranker(graph, tmp_path)
    session = make_session(tmp_path / "ranker.onnx", "cpu", intra_op_threads=1)
    assert check_ranker_parity(graph, session, spec) < 1e-4
    nodes = onnx.load(tmp_path / "ranker.onnx", load_external_data=False).graph.node
    assert not {"If", "Loop", "Scan"} & {node.op_type for node in nodes}  # no branch for a scenario


@pytest.mark.parametrize("kind", ["aitm", "pepnet"])
def test_a_backbone_without_levels_gives_torchs_scores_too(kind: str, trained: Any, tmp_path: Path) -> None:
    path = write_ranker_artefact(trained(kind, plain=True), tmp_path)
    manifest = open_ranker(path).manifest
    assert (manifest.ranker.kind, manifest.ranker.z_size) == (kind, 0)


def test_what_is_served_is_the_model_that_was_judged(run: Run) -> None:
    """Folded, with scenario layers generated once, it gives the scores of training's forward pass."""
    import torch

    graph = RankerGraph(run.model)
    spec = graph.spec(run.dataset.scenario_names)
    users, z = run.model.told_users()
    rows = [
        RankRow([3, 1, 2], scenario, list(range(1, 21)), z[place].numpy())
        for place, scenario in enumerate((0, 1, 2))
    ]  # fmt: skip
    served = np.stack(torch_scores(graph, spec, rows))
    with torch.no_grad():
        judged = run.model(
            torch.tensor([[3, 1, 2]] * 3),
            torch.full((3,), 3),
            torch.tensor([0, 1, 2]),
            torch.arange(1, 21).expand(3, -1),
            users[:3],
        )
    np.testing.assert_allclose(served, judged.numpy(), atol=1e-5)


def test_the_artefact_says_what_it_is_and_the_service_accepts_it(exported: Path, artefact: RankerArtefact) -> None:
    assert check_report(exported) == []
    manifest = artefact.manifest
    assert manifest.role == "ranker"
    assert manifest.ranker.scenarios == ["deals", "home", "search"]
    assert artefact.scenario_index == {"deals": 0, "home": 1, "search": 2}
    assert [tensor.name for tensor in manifest.inputs] == [
        "item_seq", "seq_len", "scenario_index", "candidates", "user_z", "has_user_z",
    ]  # fmt: skip
    assert {"true", "predicted", "default"} == set(manifest.metrics["z"])  # type: ignore[arg-type]
    assert artefact.items.shape == (31, manifest.ranker.dim)
    assert manifest.knowledge is not None
    assert "/" not in str(manifest.config["data"])
    # one copy of the item features: the graph reads items.npy
    assert (exported / "ranker.onnx").stat().st_size < 200_000


def test_one_candidate_scores_as_it_does_among_two_hundred(ranker: Ranker, run: Run) -> None:
    many = np.random.default_rng(0).integers(1, 31, 200).tolist()
    z = run.model.told_users()[1][0].numpy()
    for user_z in (None, z):
        among = ranker.score([RankRow([4, 5], 1, many, user_z)])[0]
        alone = np.concatenate([ranker.score([RankRow([4, 5], 1, [item], user_z)])[0] for item in many[:10]])
        np.testing.assert_allclose(alone, among[:10], atol=1e-6)
        backwards = ranker.score([RankRow([4, 5], 1, many[::-1], user_z)])[0]
        np.testing.assert_allclose(backwards[::-1], among, atol=1e-6)


def test_requests_of_different_sizes_share_a_run(ranker: Ranker) -> None:
    rows = [RankRow([], 0, [7]), RankRow(list(range(1, 31)), 2, [1, 2, 3]), RankRow([9], 1, [])]
    together = ranker.score(rows)
    assert [len(scores) for scores in together] == [1, 3, 0]
    for row, scores in zip(rows[:2], together, strict=False):
        np.testing.assert_allclose(ranker.score([row])[0], scores, atol=1e-6)


def test_what_the_graph_would_take_in_silence_is_refused(ranker: Ranker) -> None:
    with pytest.raises(UnknownItemIndex, match=r"candidates hold item index 31, expected 1\.\.30"):
        ranker.score([RankRow([1], 0, [31])])
    with pytest.raises(UnknownItemIndex, match="candidates hold item index -1"):
        ranker.score([RankRow([1], 0, [-1])])
    with pytest.raises(ArtefactError, match=r"scenario index is -1, expected 0\.\.2"):
        ranker.score([RankRow([1], -1, [1])])


def test_z_is_found_by_user_id(artefact: RankerArtefact, run: Run) -> None:
    users, z = run.model.told_users()
    assert artefact.user_z is not None
    for place, user in enumerate(users.tolist()):
        found = artefact.user_z.find(run.dataset.user_ids[user])
        assert found is not None
        np.testing.assert_allclose(found, z[place].numpy(), atol=2e-3)
    for stranger in ("nobody", "", "a" * 200, run.dataset.user_ids[int(users[0])] + "x"):
        assert artefact.user_z.find(stranger) is None


def test_ids_are_kept_in_order_of_their_bytes(tmp_path: Path) -> None:
    spec = write_user_z(tmp_path, ["u10", "u2", "a"], np.array([[10.0], [2.0], [1.0]]))
    found, faults = read_user_z(tmp_path, spec, 1)
    assert faults == []
    assert found is not None
    assert [float(found.find(name)[0]) for name in ("a", "u10", "u2")] == [1.0, 10.0, 2.0]  # type: ignore[index]
    np.save(tmp_path / spec.ids, np.array([b"u2", b"a", b"u10"]))
    assert read_user_z(tmp_path, spec, 1)[1] == [f"{spec.ids}: ids are not ascending, or one is there twice"]


def test_a_plain_backbone_takes_no_z(trained: Any, tmp_path: Path) -> None:
    path = write_ranker_artefact(trained("mmoe", plain=True), tmp_path, name="plain")
    artefact = open_ranker(path)
    assert artefact.manifest.ranker.z_size == 0
    assert artefact.user_z is None
    assert artefact.manifest.paper is None
    assert [tensor.name for tensor in artefact.manifest.inputs][-1] == "candidates"
    ranker = Ranker(artefact, intra_op_threads=1, device="cpu")
    assert np.isfinite(ranker.score([RankRow([1], 0, [1, 2])])[0]).all()


def _copy(exported: Path, root: Path) -> Path:
    import shutil

    target = root / exported.parent.name / exported.name
    shutil.copytree(exported, target)
    return target


def test_an_artefact_that_was_changed_is_refused(exported: Path, tmp_path: Path) -> None:
    changed = _copy(exported, tmp_path)
    z = np.load(changed / "user_z.npy")
    np.save(changed / "user_z.npy", z + 1)
    reasons = check_report(changed)
    assert [reason for reason in reasons if reason.startswith("user_z.npy: sha256")]
    with pytest.raises(ArtefactRefused):
        open_ranker(changed)


def test_a_manifest_that_contradicts_itself_is_refused(exported: Path, tmp_path: Path) -> None:
    changed = _copy(exported, tmp_path)
    manifest = json.loads((changed / "manifest.json").read_text())
    manifest["ranker"] |= {"z_size": 0, "scenarios": ["home", "home", "deals"]}
    (changed / "manifest.json").write_text(json.dumps(manifest))
    reasons = "\n".join(check_report(changed))
    assert "user_z is there, and ranker.z_size is 0" in reasons
    assert "ranker.scenarios names one twice" in reasons
    assert "inputs are" in reasons


def test_golden_scores_that_are_not_reproduced_are_refused(ranker: Ranker, monkeypatch: pytest.MonkeyPatch) -> None:
    check_ranker_golden(ranker)
    real = ranker.score
    monkeypatch.setattr(ranker, "score", lambda rows: [scores + 0.01 for scores in real(rows)])
    with pytest.raises(ArtefactRefused, match=r"golden\.npz: empty request 0, run together: scores are off by"):
        check_ranker_golden(ranker)


@pytest.fixture(scope="module")
def served(exported: Path, shop: Path) -> Path:
    """The artefacts of the ranker and of a retriever over the same catalogue, side by side."""
    root = exported.parent.parent
    write_baseline("popularity", shop, root, name="popular", split="global_time")
    return root


def _registry(root: Path, entry: str, **settings: Any) -> Registry:
    (root / "scenarios.toml").write_text(f"[scenario.home]\nretriever = 'popular@latest'\n{entry}\n")
    return load_registry(Settings(artefacts=root, **settings))


def test_the_service_loads_it_behind_a_retriever(served: Path, artefact: RankerArtefact) -> None:
    registry = _registry(served, "ranker = 'shop-msr@latest'\ncandidates = 20")
    choice = registry.scenario("home").ranker
    assert choice is not None
    assert (choice.scenario_index, choice.candidates) == (artefact.scenario_index["home"], 20)
    assert choice.index_map.tolist() == list(range(31))  # one catalogue, one order
    assert [ranker.name for ranker in registry.rankers] == ["shop-msr"]
    renamed = _registry(served, "ranker = 'shop-msr'\nranker_scenario = 'deals'").scenario("home").ranker
    assert renamed is not None
    assert renamed.scenario_index == artefact.scenario_index["deals"]


@pytest.mark.parametrize(
    ("entry", "settings", "fault"),
    [
        ("ranker = 'shop-msr'\nranker_scenario = 'cellar'", {}, "knows no scenario 'cellar', expected ranker_scenario"),
        ("ranker = 'nothing'", {}, r"scenario\.home\.ranker: artefact 'nothing' is not in"),
        ("ranker_scenario = 'home'", {}, "there is no ranker it could be a scenario of"),
    ],
)
def test_scenarios_that_cannot_be_ranked_are_refused_at_the_start(
    entry: str, settings: dict[str, Any], fault: str, served: Path
) -> None:
    with pytest.raises(SettingsError, match=fault):
        _registry(served, entry, **settings)


def test_beside_an_engine_process_a_ranker_is_opened_and_not_run(served: Path) -> None:
    (served / "scenarios.toml").write_text("[scenario.home]\nretriever = 'popular'\nranker = 'shop-msr'\n")
    (ranker,) = load_registry(Settings(artefacts=served, engine_process=True), open_only=True).rankers
    assert ranker.device == "another process"
    assert ranker.artefact.scenario_index == {"deals": 0, "home": 1, "search": 2}


def test_a_ranker_is_no_scenario_by_itself(served: Path) -> None:
    (served / "scenarios.toml").unlink(missing_ok=True)
    assert list(load_registry(Settings(artefacts=served)).scenarios) == ["popular"]


def test_a_ranker_does_not_pass_for_a_retriever(served: Path) -> None:
    (served / "scenarios.toml").write_text("[scenario.home]\nretriever = 'shop-msr@latest'\n")
    with pytest.raises(ArtefactRefused, match=r"role: Input should be 'retriever'"):
        load_registry(Settings(artefacts=served))
