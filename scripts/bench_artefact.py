"""Writes an artefact for speed measurements: a real encoder with untrained weights over made-up items.

Speed depends on shapes, not on what a model has learnt. `sasrec` is the plain backbone, `llm-esr` the dual view (twice
the width), `eimf` a multi-interest retriever of four queries, `last-item` the vector of the newest item with rows of
length 1, so that an allowed last item is always its own best answer: a canary. Beside the artefact lies `whole.onnx`
for servers without a catalogue scan of their own.

    python scripts/bench_artefact.py sasrec --items 10000 --dim 64 --out artefacts
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.artefact import Draft, write_artefact
from export.baselines import make_catalogue, random_table, write_topk_only
from export.graphs import EncoderGraph
from export.to_onnx import write_encoder
from models.config import EIMFConfig, LLMESRConfig
from models.eimf import EIMF
from models.llm_esr import LLMESR
from service.artefact.files import ENCODER, ITEMS

MAX_SEQ_LEN = 50
K = 20
POPULARITY_EXPONENT = 0.9
SEED = 7


@dataclass(frozen=True)
class RandomTexts:
    """Stands in for knowledge: a model asks it for nothing but the vectors of the items' texts."""

    item_vectors: NDArray[np.float32]


def write(kind: str, n_items: int, dim: int, out: Path) -> Path:
    """Folder of the new artefact; `whole.onnx` is in it, not in its manifest's list of what is served."""
    item_ids = [f"i{number:08d}" for number in range(n_items)]
    counts = popularity(n_items)
    name = f"bench-{kind}-{n_items}-d{dim}"
    if kind == "last-item":
        table = random_table(n_items, dim, SEED)
        table[1:] /= np.linalg.norm(table[1:], axis=1, keepdims=True)
        return write_topk_only(out, item_ids=item_ids, table=table, name=name, counts=counts)
    graph = EncoderGraph(model_of(kind, n_items, dim))
    draft = Draft(
        name=name,
        paper=graph.inputs.paper,
        encoder=graph.spec,
        items=graph.items.numpy(),
        catalogue=make_catalogue(item_ids, counts=counts),
        write_encoder=lambda folder: write_encoder(graph, folder) and None,
        has_attention=graph.inputs.has_attention,
    )
    return write_artefact(draft, out)


def model_of(kind: str, n_items: int, dim: int) -> LLMESR | EIMF:
    """An untrained model; `dim` is the width of the item table, which two views share equally."""
    torch.manual_seed(SEED)
    if kind == "eimf":
        plain = EIMFConfig(
            kind="eimf",
            hidden_size=dim,
            max_seq_len=MAX_SEQ_LEN,
            semantic_prediction_weight=0.0,
            alignment_weight=0.0,
        )
        return EIMF(plain, n_items, None).eval()
    common = {"max_seq_len": MAX_SEQ_LEN, "distillation_weight": 0.0, "collaborative_init": "random"}
    if kind == "sasrec":
        config = LLMESRConfig(views=("collaborative",), hidden_size=dim, **common)  # type: ignore[arg-type]
        return LLMESR(config, n_items, None).eval()
    config = LLMESRConfig(hidden_size=dim // 2, **common)  # type: ignore[arg-type]
    texts = np.random.default_rng(SEED).standard_normal((n_items + 1, 32)).astype(np.float32)
    return LLMESR(config, n_items, RandomTexts(texts)).eval()  # type: ignore[arg-type]


def popularity(n_items: int) -> NDArray[np.int64]:
    """Training counts by a power law, dealt out to items in a seeded order."""
    counts = np.maximum(1, 1e6 * np.arange(1, n_items + 1) ** -POPULARITY_EXPONENT).astype(np.int64)
    return np.random.default_rng(SEED).permutation(counts)


def write_whole(artefact: Path, folder: Path) -> None:
    """`folder/whole.onnx`: item_seq, seq_len -> item indices and scores of the best K, exactly, in one graph.

    Look-up and scan read one initializer, which is items.npy (linked beside it). Row 0, which is padding, competes with
    a score of 0; with as many untrained items as here it never comes near the best.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ITEMS).unlink(missing_ok=True)
    (folder / ITEMS).hardlink_to(artefact / ITEMS)
    model = onnx.load(artefact / ENCODER, load_external_data=False)
    graph = model.graph
    items = next(each for each in graph.initializer if each.data_location == TensorProto.EXTERNAL)
    n_queries = next(each for each in graph.output if each.name == "queries").type.tensor_type.shape.dim[1].dim_value
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([-1, items.dims[1]], np.int64), "row_shape"),
            numpy_helper.from_array(np.array([-1, n_queries, items.dims[0]], np.int64), "scores_shape"),
            numpy_helper.from_array(np.array([1], np.int64), "axis_of_queries"),
            numpy_helper.from_array(np.array([K], np.int64), "k"),
        ]
    )
    # Of several queries the one that likes an item best counts.
    largest = [
        helper.make_node("Reshape", ["all_scores", "scores_shape"], ["scores_of_queries"]),
        helper.make_node("ReduceMax", ["scores_of_queries", "axis_of_queries"], ["item_scores"], keepdims=0),
    ]
    graph.node.extend(
        [
            helper.make_node("Reshape", ["queries", "row_shape"], ["rows"]),
            # A transposed product: 10 to 30 % faster than MatMul by a transposed copy, and no copy.
            helper.make_node("Gemm", ["rows", items.name], ["all_scores"], transB=1),
            *(largest if n_queries > 1 else []),
            helper.make_node(
                "TopK",
                ["item_scores" if n_queries > 1 else "all_scores", "k"],
                ["scores", "indices"],
                axis=1,
                largest=1,
                sorted=1,
            ),
        ]
    )
    del graph.output[:]
    graph.output.extend(
        [
            helper.make_tensor_value_info("indices", TensorProto.INT64, ["batch", K]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", K]),
        ]
    )
    onnx.save(model, folder / "whole.onnx")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["sasrec", "llm-esr", "eimf", "last-item"])
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--dim", type=int, default=64, help="width of the item table")
    parser.add_argument("--out", type=Path, required=True, help="folder of all artefacts")
    parser.add_argument("--whole", type=Path, help="folder for whole.onnx, the graph with the scan in it")
    given = parser.parse_args()
    try:
        path = write(given.kind, given.items, given.dim, given.out)
        if given.whole is not None:
            write_whole(path, given.whole)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    print(path)


if __name__ == "__main__":
    main()
