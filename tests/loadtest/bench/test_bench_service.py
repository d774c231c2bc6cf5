"""The kit around a real service with a tiny artefact, and the peers' graph held to the service's own answer."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxruntime import InferenceSession

from export.baselines import random_table, write_topk_only
from loadtest.bench import cli, parts
from loadtest.bench.artefacts import Shape, histories, made
from loadtest.bench.machine import Cores
from loadtest.bench.parts import Bench
from loadtest.bench.processes import Use
from loadtest.bench.soak import aborts, growth, mixed_requests, soak
from loadtest.errors import InputError, LoadtestError
from loadtest.peers.model import Model

ROOT = Path(__file__).parents[3]
N_ITEMS = 40
SHAPE = Shape("last-item", N_ITEMS, 8)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both artefacts that the tests ask for, as the script would have left them."""
    folder = tmp_path_factory.mktemp("cache")
    for shape in (SHAPE, Shape("last-item", 10_000, 64)):
        table = random_table(shape.n_items, shape.dim)
        table[1:] /= np.linalg.norm(table[1:], axis=1, keepdims=True)
        write_topk_only(
            folder / "artefacts" / shape.name,
            item_ids=[f"i{number:05d}" for number in range(shape.n_items)],
            table=table,
            name=f"bench-{shape.name}",
        )
    return folder


@pytest.fixture
def bench(cache: Path, tmp_path: Path) -> Bench:
    cores = tuple(sorted(os.sched_getaffinity(0)))
    said: list[str] = []
    return Bench(
        Cores(cores, cores[-1:]),
        cache,
        tmp_path / "venvs",
        tmp_path,
        said.append,
        rounds=1,
        seconds=0.5,
        tune_seconds=0.2,
        n_histories=100,
        connections=(8,),
    )


def test_capacity_measures_both_states_and_the_echo_of_the_same_run(bench: Bench) -> None:
    told = parts.capacity(bench, SHAPE)
    for who in ("request", "redis", "echo"):
        assert told[who]["requests"] > 0
        assert told[who]["failed"] == 0
        assert told[who]["server_cpu_ms_per_request"] >= 0
    # What is not by the model would not be capacity: the stored histories were found.
    assert told["redis"]["tiers"].get("model", 0) > 0
    assert set(told["ratio_to_echo"]) == {"request", "redis"}


def test_clients_that_hang_up_never_get_anothers_reply(bench: Bench) -> None:
    told = aborts(bench, 60)
    assert told["aborted"] >= 60
    assert told["by_model"] > 0
    assert told["foreign"] == 0


def test_a_soak_counts_what_became_of_its_mixed_requests(bench: Bench) -> None:
    told = soak(bench, SHAPE, 400)
    assert sum(told["statuses"].values()) == told["requests"] == 400
    assert {"200", "202", "404", "422"} <= set(told["statuses"])
    assert not {"500", "0", "-1"} & set(told["statuses"])


def test_the_peers_graph_gives_the_best_items_of_the_whole_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artefact = _with_whole_graph("sasrec", tmp_path, monkeypatch)
    model = Model(tmp_path / "whole", threads=1)
    alone = model.answer([["i00000003", "i00000007"]])[0]
    batched = model.answer([["i00000001"] * 9, ["i00000003", "i00000007"]])[1]
    assert alone["item_ids"] == batched["item_ids"]
    items = np.load(artefact / "items.npy")
    query, *_ = np.linalg.lstsq(
        items[[int(item_id[1:]) + 1 for item_id in alone["item_ids"]]], np.array(alone["scores"]), rcond=None
    )
    # 20 scores determine a query of 8 numbers; the 20 best of all 41 rows by it are the 20 that were answered.
    best = np.argsort(-(items @ query))[:20]
    assert [f"i{row - 1:08d}" for row in best] == alone["item_ids"]


def test_of_four_queries_the_peers_graph_takes_the_one_that_likes_an_item_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artefact = _with_whole_graph("eimf", tmp_path, monkeypatch)
    history = np.array([[4, 8]])
    session = InferenceSession(artefact / "encoder.onnx", providers=["CPUExecutionProvider"])
    (queries,) = session.run(["queries"], {"item_seq": history, "seq_len": np.array([2])})
    assert queries.shape == (1, 4, 8)
    scores = (queries[0] @ np.load(artefact / "items.npy").T).max(axis=0)
    best = np.argsort(-scores)[:20]
    answer = Model(tmp_path / "whole", threads=1).answer([["i00000003", "i00000007"]])[0]
    assert answer["item_ids"] == [f"i{row - 1:08d}" for row in best]


def test_histories_are_seeded_and_prefer_popular_items() -> None:
    item_ids = [f"i{number}" for number in range(100)]
    lists = histories(item_ids, 2_000, seed=1)
    assert lists == histories(item_ids, 2_000, seed=1)
    lengths = np.array([len(each) for each in lists])
    assert lengths.min() >= 1
    assert lengths.max() <= 50
    assert abs(lengths.mean() - 50 / sum(1 / length for length in range(1, 51))) < 1
    flat = [item_id for each in lists for item_id in each]
    assert flat.count("i0") > 5 * flat.count("i50")


def test_mixed_requests_hold_good_and_bad_ones() -> None:
    requests = mixed_requests([f"i{number}" for number in range(50)], seed=1, n=500)
    paths = {request.split()[1].decode() for request in requests}
    assert paths == {"/v1/recommend", "/v1/events", "/v1/similar", "/v1/recommend/batch"}
    assert requests == mixed_requests([f"i{number}" for number in range(50)], seed=1, n=500)


def test_growth_compares_the_last_tenth_with_the_second() -> None:
    def use(anonymous_mb: float) -> Use:
        return Use(0.0, 300.0, anonymous_mb, 1, 4, 10)

    # The first two of twenty still fill caches, then 200 MB, in the end 220: a tenth more.
    told = growth([use(50), use(50), *[use(200)] * 16, use(220), use(220)])
    assert told["anonymous_mb"] == {"early": 200.0, "late": 220.0, "growth": 0.1}
    assert not told["flat"]
    assert growth([use(100)] * 20)["flat"]


def test_an_artefact_that_cannot_be_made_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(LoadtestError, match=r"bench_artefact\.py unknown-5-d4"):
        made(Shape("unknown", 5, 4), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["threads", "=2", "A=1"])
def test_a_setting_to_try_that_is_not_one_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="name=value"):
        cli._settings(text)


def test_every_kind_of_part_has_a_plan() -> None:
    shapes = {"1m": Shape("sasrec", 1_000_000, 64)}
    plans: dict[str, Callable[..., Any]] = {}
    for kind in cli.KINDS:
        plans |= cli._plan(kind, shapes, 1, 1)
    assert {name.split("/")[0] for name in plans} == set(cli.KINDS)


def _with_whole_graph(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small artefact; the folder that a peer reads lies beside it as `whole`."""
    script = _bench_artefact(monkeypatch)
    artefact: Path = script.write(kind, N_ITEMS, 8, tmp_path / "artefacts")
    script.write_whole(artefact, tmp_path / "whole")
    (tmp_path / "whole" / "item_ids.txt").write_text("\n".join(f"i{number:08d}" for number in range(N_ITEMS)))
    return artefact


def _bench_artefact(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("bench_artefact", ROOT / "scripts" / "bench_artefact.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module
