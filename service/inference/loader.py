"""From a folder to a retriever that may serve: open, load, reproduce the golden answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from service.artefact.directory import Artefact, open_artefact
from service.inference.device_topk import DeviceTopK
from service.inference.golden import check_golden
from service.inference.retriever import Retriever
from service.inference.runtime import Device, has_cuda, place
from service.inference.topk import ExactTopK, TopK


@dataclass(frozen=True)
class LoadedRetriever:
    """Everything one model version needs to answer."""

    artefact: Artefact
    retriever: Retriever
    topk: TopK


def load(path: Path, *, intra_op_threads: int, device: Device) -> LoadedRetriever:
    """The artefact in `path`, ready to serve and warmed up.

    Raises:
        ArtefactRefused: with the reasons of the first step that failed.
        SettingsError: ONNX Runtime or the device is not there.
    """
    artefact = open_artefact(path)
    on_cuda = has_cuda(device)
    table = place(artefact.items, on_cuda=True) if on_cuda else None
    retriever = Retriever(artefact, intra_op_threads=intra_op_threads, device=device, table=table)
    topk: TopK = ExactTopK(artefact.items, artefact.available)
    if on_cuda:
        topk = DeviceTopK(table, artefact.items, artefact.available, topk, on_cuda=True)
    check_golden(retriever, topk)
    return LoadedRetriever(artefact, retriever, topk)
