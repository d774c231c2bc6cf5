"""Every reason why an artefact would be refused, in one look."""

from __future__ import annotations

from pathlib import Path

from service.artefact.directory import inspect
from service.artefact.files import ENCODER, role_of
from service.artefact.ranker_directory import inspect_ranker
from service.errors import ArtefactError, ArtefactRefused
from service.inference.golden import check_golden
from service.inference.ranker import Ranker
from service.inference.ranker_golden import check_ranker_golden
from service.inference.retriever import Retriever, graph_faults
from service.inference.runtime import make_session
from service.inference.topk import ExactTopK


def check_report(path: Path) -> list[str]:
    """One sentence per reason for refusal, each naming the file; empty when the service would serve the artefact.

    The graph is loaded even when other files are at fault, but never before its own bytes and those of the files it
    points to are the manifest's. The golden answers need everything else to be in order.
    """
    if role_of(path) == "ranker":
        return _ranker_report(path)
    inspection = inspect(path)
    reasons = list(inspection.reasons)
    if inspection.artefact is None:
        if inspection.manifest is not None and inspection.encoder_trusted:
            try:
                session = make_session(path / ENCODER, "cpu", intra_op_threads=1)
            except ArtefactError as error:
                reasons.append(str(error))
            else:
                reasons += graph_faults(session, inspection.manifest.inputs, inspection.manifest.outputs)
        return reasons
    try:
        retriever = Retriever(inspection.artefact, intra_op_threads=1, device="cpu")
        check_golden(retriever, ExactTopK(inspection.artefact.items, inspection.artefact.available))
    except ArtefactRefused as refusal:
        reasons += refusal.reasons
    return reasons


def _ranker_report(path: Path) -> list[str]:
    inspection = inspect_ranker(path)
    if inspection.artefact is None:
        return inspection.reasons
    try:
        check_ranker_golden(Ranker(inspection.artefact, intra_op_threads=1, device="cpu"))
    except ArtefactRefused as refusal:
        return refusal.reasons
    return []
