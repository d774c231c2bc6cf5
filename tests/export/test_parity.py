from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.errors import ParityError
from export.graphs import EncoderGraph
from export.parity import check_parity
from models.contracts import EncoderInputs
from service.artefact.manifest import EncoderSpec

SPEC = EncoderSpec(kind="sum", padding="left", max_seq_len=5, dim=4, n_queries=1)


class Sum(nn.Module):
    """Query = sum of the history's vectors."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.table = nn.Parameter(scale * torch.randn(41, 4, generator=torch.Generator().manual_seed(4)))

    def describe_inputs(self) -> EncoderInputs:
        return EncoderInputs("sum", None, "left", "clean", 5, None, 4, 1)

    def item_table(self) -> Tensor:
        return self.table

    def encode_vectors(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> Tensor:
        return (vectors * (item_seq > 0)[..., None]).sum(1, keepdim=True)


class Session:
    """Stands for ONNX Runtime: torch's queries with `spoil` applied."""

    def __init__(self, graph: EncoderGraph, spoil: Callable[[NDArray[np.float32], NDArray[np.int64]], Any]) -> None:
        self.graph, self.spoil = graph, spoil

    def run(self, names: list[str], feed: dict[str, NDArray[np.int64]]) -> list[Any]:
        with torch.no_grad():
            queries = self.graph(*(torch.from_numpy(feed[name]) for name in ("item_seq", "seq_len"))).numpy()
        return [self.spoil(queries, feed["item_seq"])]


def check(spoil: Callable[[NDArray[np.float32], NDArray[np.int64]], Any], scale: float = 1.0) -> Any:
    graph = EncoderGraph(Sum(scale))
    return check_parity(graph, Session(graph, spoil), SPEC)


def test_the_same_queries_agree() -> None:
    parity = check(lambda queries, item_seq: queries)
    assert parity.queries == 0.0
    assert parity.padding < 1e-6


def test_the_largest_gap_is_reported() -> None:
    parity = check(lambda queries, item_seq: queries + np.float32(2.0**-22), scale=0.01)
    assert parity.queries == pytest.approx(2.0**-22, rel=0.1)


def test_a_gap_above_the_tolerance_names_case_and_batch() -> None:
    def only_in_big_batches(queries: NDArray[np.float32], item_seq: NDArray[np.int64]) -> NDArray[np.float32]:
        return queries + np.float32(0.001) * (len(queries) == 17)

    with pytest.raises(ParityError, match=r"^empty histories, batch 17: ONNX Runtime and torch differ by 0\.001"):
        check(only_in_big_batches)


def test_nan_is_a_gap() -> None:
    with pytest.raises(ParityError, match="differ by nan"):
        check(lambda queries, item_seq: queries * np.float32(np.nan))


def test_a_graph_that_sees_appended_padding_is_refused() -> None:
    def leak(queries: NDArray[np.float32], item_seq: NDArray[np.int64]) -> NDArray[np.float32]:
        # Right at the length that torch is compared at, off when the same history is padded to the full width.
        longest = int((item_seq > 0).sum(axis=1).max())
        return queries + np.float32(0.01) * (item_seq.shape[1] > max(longest, 1))

    with pytest.raises(ParityError, match="appended padding changes the queries"):
        check(leak)


def test_another_top_20_is_refused_even_when_queries_are_close() -> None:
    # Vectors this small keep every query within the tolerance, whatever the graph says.
    with pytest.raises(ParityError, match="top 20 of row 0 are not torch's"):
        check(lambda queries, item_seq: -queries, scale=5e-6)
