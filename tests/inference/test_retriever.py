from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.artefact.directory import open_artefact
from service.errors import ArtefactError, UnknownItemIndex
from service.inference.loader import load
from service.inference.retriever import Retriever, split_by_length


@pytest.fixture(scope="module")
def retriever(artefact_path: Path) -> Retriever:
    return Retriever(open_artefact(artefact_path), intra_op_threads=1, device="auto")


def test_queries_have_one_row_per_history(retriever: Retriever) -> None:
    items = retriever.artefact.items
    queries = retriever.encode([[3, 5], [], [7]])
    assert queries.dtype == np.float32
    assert queries.shape == (3, 1, 16)
    np.testing.assert_array_equal(queries[:, 0], items[[5, 0, 7]])


def test_a_history_over_the_limit_keeps_its_newest_items(retriever: Retriever) -> None:
    history = [1] * 100 + [4]
    np.testing.assert_array_equal(retriever.encode([history])[0, 0], retriever.artefact.items[4])


def test_no_histories_give_no_queries(retriever: Retriever) -> None:
    assert retriever.encode([]).shape == (0, 1, 16)


def test_short_histories_are_encoded_apart_from_long_ones_where_that_spares_more_than_a_run_costs() -> None:
    assert split_by_length([]) == [[]]
    assert split_by_length([1, 50]) == [[0, 1]]  # 49 columns of padding
    assert split_by_length([50, 1, 1, 2, 3]) == [[1, 2, 3, 4], [0]]  # 4 x 47
    assert split_by_length([9, 50, 10, 0, 1, 40]) == [[3, 4, 0, 2], [1, 5]]  # 2 x 9 is too little, 4 x 40 is not


def test_rows_keep_their_places_when_they_are_encoded_apart(retriever: Retriever) -> None:
    items = retriever.artefact.items
    histories = [[1] * 50, *([item] for item in range(1, 11)), [2] * 20 + [7]]
    assert len(split_by_length([len(history) for history in histories])) == 2
    np.testing.assert_array_equal(retriever.encode(histories)[:, 0], items[[1, *range(1, 11), 7]])


@pytest.mark.parametrize("index", [0, -1, 13])
def test_an_index_outside_the_table_never_reaches_the_graph(retriever: Retriever, index: int) -> None:
    with pytest.raises(UnknownItemIndex, match=f"item index {index}, expected 1..12"):
        retriever.encode([[1, index]])


def test_the_provider_is_read_from_the_session(retriever: Retriever) -> None:
    assert retriever.provider == "CPUExecutionProvider"


class Graph:
    """A session that answers with what it was given."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def run(self, names: list[str], feed: dict[str, object]) -> list[object]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return [self.answer]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros((2, 1, 16), np.float32), r"queries have shape \(2, 1, 16\), the manifest says \(1, 1, 16\)"),
        (RuntimeError("Reshape\nwent wrong"), r"encoder\.onnx: run failed for item_seq \(1, 2\): Reshape$"),
    ],
)
def test_a_graph_that_misbehaves_is_an_error(artefact_path: Path, answer: object, message: str) -> None:
    retriever = Retriever(open_artefact(artefact_path), intra_op_threads=1, device="cpu")
    retriever._session = Graph(answer)
    with pytest.raises(ArtefactError, match=message):
        retriever.encode([[1, 2]])


def test_a_loaded_artefact_recommends(artefact_path: Path) -> None:
    loaded = load(artefact_path, intra_op_threads=1, device="cpu")
    queries = loaded.retriever.encode([[2]])
    indices, scores = loaded.topk.search(queries, 12, [np.array([2])])[0]
    items = loaded.artefact.items.astype(np.float64)
    expected = items[1:12] @ items[2]
    best_first = [index for index in (np.argsort(-expected) + 1).tolist() if index != 2]
    assert indices.tolist() == best_first
    assert 12 not in indices  # not available
    np.testing.assert_allclose(scores, expected[indices - 1], rtol=1e-6)


def test_the_encoder_reads_the_table_from_items_npy(artefact_path: Path, tmp_path: Path) -> None:
    # The graph holds no table of its own: over other bytes in items.npy it answers with those.
    for file in artefact_path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    items = np.load(tmp_path / "items.npy")
    np.save(tmp_path / "items.npy", items * 2)
    from service.inference.runtime import make_session

    session = make_session(tmp_path / "encoder.onnx", "cpu", intra_op_threads=1)
    feed = {"item_seq": np.array([[4]]), "seq_len": np.array([1])}
    np.testing.assert_array_equal(session.run(["queries"], feed)[0][0, 0], items[4] * 2)
