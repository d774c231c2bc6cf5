"""From a folder to a retriever that may serve: open, load, reproduce the golden answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.artefact.directory import Artefact, open_artefact
from service.inference.device_topk import DeviceTopK
from service.inference.golden import check_golden
from service.inference.retriever import Retriever
from service.inference.runtime import Device, has_cuda, place
from service.inference.topk import Choice, ExactTopK, TopK, choose, make_topk
from service.inference.topk.approximate import ApproximateTopK


@dataclass(frozen=True)
class LoadedRetriever:
    """Everything one model version needs to answer."""

    artefact: Artefact
    retriever: Retriever
    topk: TopK
    backend: str  # how `topk` works: a name of service.inference.topk, or `device`
    recall: float | None = None  # share of the exact best 20 that `topk` finds; none = all, it is exact


def load(
    path: Path, *, intra_op_threads: int, device: Device, top_k: Choice = "auto", scan_threads: int = 1
) -> LoadedRetriever:
    """The artefact in `path`, ready to serve and warmed up.

    Args:
        top_k: a backend that is to be used whatever the device and the size of the catalogue; `auto` chooses.
        scan_threads: threads of one scan of a large catalogue.

    Raises:
        ArtefactRefused: with the reasons of the first step that failed.
        SettingsError: ONNX Runtime or the device is not there.
    """
    artefact = open_artefact(path)
    on_cuda = has_cuda(device)
    table = place(artefact.items, on_cuda=True) if on_cuda else None
    retriever = Retriever(artefact, intra_op_threads=intra_op_threads, device=device, table=table)
    items, available, encoder = artefact.items, artefact.available, artefact.manifest.encoder
    if on_cuda and top_k == "auto":
        topk: TopK = DeviceTopK(table, items, available, ExactTopK(items, available), on_cuda=True)
        check_golden(retriever, topk)
        return LoadedRetriever(artefact, retriever, topk, "device")
    chosen = choose(top_k, artefact.manifest.n_items)
    topk = make_topk(
        chosen, items, available, n_queries=encoder.n_queries, threads=intra_op_threads, scan_threads=scan_threads
    )
    check_golden(retriever, topk)
    if top_k != "approximate":
        return LoadedRetriever(artefact, retriever, topk, chosen)
    sample = retriever.encode(_sampled_histories(artefact))
    rough = ApproximateTopK(items, available, topk, sample, threads=intra_op_threads)
    return LoadedRetriever(artefact, retriever, rough, "approximate", rough.recall)


def _sampled_histories(artefact: Artefact, n: int = 200, seed: int = 9) -> list[list[int]]:
    """Histories drawn by popularity: queries on which recall can be measured without anybody's data."""
    rng = np.random.default_rng(seed)
    weights = artefact.popularity[1:] + 1.0
    longest = min(20, artefact.manifest.encoder.max_seq_len)
    return [
        (1 + rng.choice(len(weights), rng.integers(1, longest + 1), p=weights / weights.sum())).tolist()
        for _ in range(n)
    ]
