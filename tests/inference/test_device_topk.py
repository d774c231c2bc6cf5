"""The top-k that a GPU runs, through the same bindings on the CPU: the answer of every other backend.

Nothing here has run on a GPU: the graph, the bindings, the shared table and the certificate are what is tested.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.artefact.directory import open_artefact
from service.errors import SettingsError
from service.inference import loader, retriever, runtime
from service.inference.device_topk import DeviceTopK
from service.inference.retriever import Retriever
from service.inference.runtime import import_onnxruntime, place
from service.inference.topk import ExactTopK

NOTHING = np.empty(0, np.int64)


def device_topk(items: NDArray[np.float32], available: NDArray[np.bool_]) -> DeviceTopK:
    return DeviceTopK(place(items, on_cuda=False), items, available, ExactTopK(items, available), on_cuda=False)


def all_but(n_rows: int, *missing: int) -> NDArray[np.bool_]:
    available = np.ones(n_rows, np.bool_)
    available[[0, *missing]] = False
    return available


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_it_answers_as_the_exact_backend_does(data: st.DataObject) -> None:
    """Small whole numbers, so that ties are everywhere; tables below, at and above whole groups of 64."""
    n_items = data.draw(st.sampled_from([1, 5, 62, 63, 64, 130, 700]), label="items")
    n_queries, k = data.draw(st.sampled_from([1, 3])), data.draw(st.sampled_from([1, 4, 30, 200]))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000), label="seed"))
    items = rng.integers(-2, 3, (n_items + 1, 4)).astype(np.float32)
    queries = rng.integers(-2, 3, (3, n_queries, 4)).astype(np.float32)
    available = rng.random(n_items + 1) < 0.8
    available[0] = False
    excluded = [rng.integers(0, n_items + 3, rng.integers(0, 6)) for _ in queries]

    found = device_topk(items, available).search(queries, k, excluded)
    expected = ExactTopK(items, available).search(queries, k, excluded)

    for (indices, scores), (wanted, wanted_scores) in zip(found, expected, strict=True):
        assert indices.tolist() == wanted.tolist()
        assert scores.tolist() == wanted_scores.tolist()


def test_what_cannot_be_certified_is_answered_by_the_fall_back_and_counted() -> None:
    """5,000 equal items: no candidate list can show that the lowest indices are in it."""
    items = np.ones((5_001, 2), np.float32)
    topk = device_topk(items, all_but(5_001))

    ((indices, scores),) = topk.search(np.ones((1, 1, 2), np.float32), 3, [NOTHING])

    assert (indices.tolist(), scores.tolist(), topk.fallbacks) == ([1, 2, 3], [2.0, 2.0, 2.0], 1)


def test_more_excluded_than_candidates_are_still_left_out() -> None:
    items = np.arange(1, 4_002, dtype=np.float32)[:, None]
    topk = device_topk(items, all_but(4_001))

    ((indices, _),) = topk.search(np.ones((1, 1, 1), np.float32), 2, [np.arange(1_001, 4_001)])

    assert indices.tolist() == [1_000, 999]


def test_an_item_that_goes_or_comes_back_does_so_in_the_next_search() -> None:
    items, available = np.array([[0], [1], [2], [3]], np.float32), all_but(4)
    topk = device_topk(items, available)
    query = np.ones((1, 1, 1), np.float32)

    def best() -> list[int]:
        return topk.search(query, 1, [NOTHING])[0][0].tolist()  # type: ignore[no-any-return]

    assert best() == [3]
    available[3] = False
    assert best() == [2]
    available[3] = True
    assert best() == [3]


def test_a_row_that_is_not_numbers_gets_nothing_and_its_neighbours_their_own() -> None:
    items = np.array([[0], [1], [2]], np.float32)
    queries = np.array([[[np.nan]], [[1]]], np.float32)
    broken, whole = device_topk(items, all_but(3)).search(queries, 2, [NOTHING, NOTHING])

    assert (broken[0].tolist(), whole[0].tolist()) == ([], [2, 1])


def test_many_rows_are_scored_in_parts_that_fit_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.inference.device_topk._SCORES_AT_ONCE", 8)
    items = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
    queries = np.array([[[1, 0]], [[0, 1]]] * 4, np.float32)

    found = device_topk(items, all_but(3)).search(queries, 1, [NOTHING] * 8)

    assert [row[0].tolist() for row in found] == [[1], [2]] * 4


def test_the_encoder_looks_items_up_in_the_table_it_is_given(artefact_path: Path) -> None:
    """The baseline's query is the vector of the last item: another table, other queries."""
    artefact = open_artefact(artefact_path)
    doubled = np.ascontiguousarray(artefact.items * 2)

    own = Retriever(artefact, intra_op_threads=1, device="cpu").encode([[1], [2, 5]])
    given_table = Retriever(artefact, intra_op_threads=1, device="cpu", table=place(doubled, on_cuda=False))

    assert np.array_equal(given_table.encode([[1], [2, 5]]), own * 2)


def test_on_cuda_encoder_and_top_k_share_one_table(artefact_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader's way with a GPU, with the CPU in its place."""
    placed: list[Any] = []

    def here(array: NDArray[Any], *, on_cuda: bool) -> Any:
        placed.append((array.shape, on_cuda))
        return place(array, on_cuda=False)

    monkeypatch.setattr(loader, "has_cuda", lambda device: True)
    monkeypatch.setattr(loader, "place", here)
    monkeypatch.setattr("service.inference.device_topk.place", here)
    monkeypatch.setattr(
        "service.inference.device_topk.make_session_of_bytes",
        lambda graph, on_cuda: runtime.make_session_of_bytes(graph, on_cuda=False),
    )
    given_tables: list[Any] = []
    make_session = retriever.make_session

    def note(path: Path, device: Any, threads: int, *, shared: Any) -> Any:
        given_tables.append(shared)
        return make_session(path, device, threads, shared=shared)

    monkeypatch.setattr(retriever, "make_session", note)

    loaded = loader.load(artefact_path, intra_op_threads=1, device="auto")

    assert isinstance(loaded.topk, DeviceTopK)  # and it has reproduced the golden answers
    rows, dim = loaded.artefact.items.shape
    assert placed == [((rows, dim), True), ((rows,), True)]  # the table once, and the mask
    assert [len(tables) for tables in given_tables] == [1]


def test_a_gpu_that_takes_no_data_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: Any) -> Any:
        raise RuntimeError("out of memory\nmany lines")

    monkeypatch.setattr(import_onnxruntime().OrtValue, "ortvalue_from_numpy", broken)
    with pytest.raises(SettingsError, match=r"8 bytes cannot be placed on the GPU: out of memory$"):
        place(np.zeros(2, np.float32), on_cuda=True)
