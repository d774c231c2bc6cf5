from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.errors import ExportError
from export.graphs import EncoderGraph
from export.parity import check_parity
from export.to_onnx import write_encoder
from models.config import LLMESRConfig
from models.contracts import EncoderInputs
from models.llm_esr import LLMESR
from service.artefact.onnx_file import external_tensors
from service.inference.runtime import make_session

N_ITEMS, DIM = 30, 6


class TwoInterests(nn.Module):
    """Another retriever than ours: two queries, right padding, mean and newest item."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N_ITEMS + 1, DIM)
        self.project = nn.Linear(DIM, DIM)

    def describe_inputs(self) -> EncoderInputs:
        return EncoderInputs("two", None, "right", "clean", 7, None, DIM, 2)

    def item_table(self) -> Tensor:
        return self.embedding.weight

    def encode_vectors(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> Tensor:
        columns = torch.arange(item_seq.shape[1])
        mask = (columns < seq_len[:, None]).float()[..., None]
        mean = (vectors * mask).sum(1) / mask.sum(1).clamp(min=1)
        newest = (columns == seq_len[:, None] - 1).float()[..., None]
        return torch.stack([self.project(mean), self.project((vectors * newest).sum(1))], dim=1)


def export(model: nn.Module, folder: Path) -> tuple[EncoderGraph, Path]:
    graph = EncoderGraph(model.eval())  # type: ignore[arg-type]
    np.save(folder / "items.npy", graph.items.numpy())
    return graph, write_encoder(graph, folder)


@pytest.mark.parametrize("padding_row", [0.0, 5.0])
def test_a_model_of_another_kind_exports_and_agrees_with_torch(tmp_path: Path, padding_row: float) -> None:
    torch.manual_seed(1)
    model = TwoInterests()
    with torch.no_grad():
        model.embedding.weight[0] = padding_row  # the padding row is the model's, not necessarily zero
    graph, path = export(model, tmp_path)
    session = make_session(path, "cpu", intra_op_threads=1)
    assert [(tensor.name, tensor.shape) for tensor in session.get_inputs()] == [
        ("item_seq", ["batch", "length"]),
        ("seq_len", ["batch"]),
    ]
    parity = check_parity(graph, session, graph.spec)
    assert parity.n_histories == 5 * (1 + 3 + 17)
    assert parity.queries < 1e-5
    assert parity.padding < 1e-5


def test_a_reference_model_exports_with_its_one_length(tmp_path: Path) -> None:
    torch.manual_seed(2)
    config = LLMESRConfig(
        views=("collaborative",),
        hidden_size=8,
        max_seq_len=4,
        n_blocks=1,
        mode="reference",
        collaborative_init="random",
        distillation_weight=0,
    )
    graph, path = export(LLMESR(config, N_ITEMS, None), tmp_path)
    session = make_session(path, "cpu", intra_op_threads=1)
    assert session.get_inputs()[0].shape == ["batch", 4]
    assert check_parity(graph, session, graph.spec).padding == 0.0
    assert [tensor.location for tensor in external_tensors(path)] == ["items.npy"]


class OwnLookUp(TwoInterests):
    """Breaks the contract: looks items up by itself and ignores the vectors it is given."""

    def encode_vectors(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> Tensor:
        return super().encode_vectors(self.embedding(item_seq), item_seq, seq_len)


def test_a_model_with_a_look_up_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="encode_vectors must get item vectors through its argument alone"):
        export(OwnLookUp(), tmp_path)
