"""From a finished run of a ranker to its artefact: graph, item features, z of users, golden scores, manifest."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from export.artefact import naming_faults, publish
from export.errors import ExportError, ParityError
from export.graphs import RankerGraph
from export.run import catalogue_of, dataset_of, without_paths
from export.to_onnx import write_ranker
from models.runs import Run
from service.artefact.check import check_report
from service.artefact.files import CATALOGUE, ITEMS, MANIFEST, RANKER, digest
from service.artefact.manifest import (
    HISTORY_EVENTS,
    GoldenSpec,
    HistorySource,
    ItemTableSpec,
    RankerManifest,
    RankerSpec,
    UserZSpec,
    version_of,
)
from service.artefact.ranker_directory import ranker_tensors
from service.artefact.user_z import write_user_z
from service.errors import ArtefactRefused
from service.features.ranking import encode_candidates
from service.features.sequence import encode_sequences
from service.inference.ranker import RankRow, run_ranker
from service.inference.ranker_golden import RankerGolden, golden_rows, write_ranker_golden
from service.inference.runtime import make_session

TOLERANCE = 1e-4


def write_ranker_artefact(
    run: Run,
    root: Path,
    *,
    name: str | None = None,
    history_source: HistorySource = "user+session",
    history_events: Sequence[str] = HISTORY_EVENTS,
    on_step: Callable[[str], None] = lambda message: None,
) -> Path:
    """The new folder `root/<name>/<version>`, held to torch and accepted by the service's own check, or nothing.

    Raises:
        ExportError: the name, or that of an event, is not one an artefact can have.
        ParityError: ONNX Runtime and torch disagree, or a score depends on the other candidates.
        ArtefactRefused: the service would refuse the result; every reason is in it.
    """
    title = name or str(run.config["name"])
    if faults := naming_faults(title, history_events):
        raise ExportError("; ".join(faults))
    root.mkdir(parents=True, exist_ok=True)
    graph = RankerGraph(run.model)
    spec = graph.spec(run.dataset.scenario_names)
    temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=root))
    try:
        folder = temporary / "content"
        folder.mkdir()
        np.save(folder / ITEMS, graph.items.numpy())
        pq.write_table(catalogue_of(run).to_table(), folder / CATALOGUE)
        on_step("exporting the ranker to ONNX")
        write_ranker(graph, folder)
        on_step("comparing ONNX Runtime with torch")
        check_ranker_parity(graph, make_session(folder / RANKER, "cpu", intra_op_threads=1), spec)
        user_z = _write_user_z(run, folder)
        golden = _write_golden(graph, spec, folder)
        body: dict[str, Any] = {
            "name": title,
            "paper": graph.inputs.paper,
            "ranker": spec,
            "n_items": len(graph.items) - 1,
            "user_z": user_z,
            "golden": golden,
            "dataset": dataset_of(run),
            "seed": run.config["seed"],
            "config": without_paths(run.config),
            "knowledge": run.knowledge,
            "history_source": history_source,
            "history_events": list(history_events),
        }
        manifest = _manifest(run, body, list(graph.items.shape), folder)
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        on_step("checking as the service would")
        # The folder carries its final names while it is checked: they are part of the check.
        staged = temporary / title / manifest.version
        staged.parent.mkdir()
        folder.rename(staged)
        if reasons := check_report(staged):
            raise ArtefactRefused(f"{title}/{manifest.version}", reasons)
        return publish(staged, root / title / manifest.version)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _manifest(run: Run, body: dict[str, Any], shape: list[int], folder: Path) -> RankerManifest:
    created_at = datetime.now(UTC).replace(microsecond=0)
    inputs, outputs = ranker_tensors(body["ranker"])
    items = ItemTableSpec(
        file=ITEMS, dtype="float32", shape=shape, meaning="item features: learnt row, then one part per attribute"
    )
    report = run.evaluation
    body |= {
        "created_at": created_at,
        "role": "ranker",
        "inputs": inputs,
        "outputs": outputs,
        "item_tables": {"items": items},
        "files": {path.name: digest(path) for path in sorted(folder.iterdir())},
        "metrics": {} if report is None else {"test": report["test"], "z": report["z"]},
        "evaluation": None if report is None else report["policy"],
    }
    return RankerManifest(**body, version=version_of(body, created_at))


def _write_user_z(run: Run, folder: Path) -> UserZSpec | None:
    users, z = run.model.told_users()
    if not len(users):
        return None
    return write_user_z(folder, [run.dataset.user_ids[user] for user in users.tolist()], z.numpy())


def _write_golden(graph: RankerGraph, spec: RankerSpec, folder: Path) -> GoldenSpec:
    cases, rows = golden_rows(spec, len(graph.items) - 1)
    golden = GoldenSpec(cases=list(dict.fromkeys(cases)), k=1)
    found = RankerGolden(cases, rows, torch_scores(graph, spec, rows))
    write_ranker_golden(folder / golden.file, found, spec.z_size)
    return golden


def torch_scores(graph: RankerGraph, spec: RankerSpec, rows: Sequence[RankRow]) -> list[NDArray[np.float32]]:
    """Logits of each row's candidates by the torch model, from the features that serving uses."""
    n_items = len(graph.items) - 1
    features = encode_sequences([row.history for row in rows], spec.max_seq_len, padding=spec.padding, n_items=n_items)
    candidates = encode_candidates([row.candidates for row in rows], n_items=n_items)
    scenarios = np.array([row.scenario_index for row in rows], dtype=np.int64)
    inputs = [torch.from_numpy(array) for array in (features.item_seq, features.seq_len, scenarios, candidates)]
    if spec.z_size:
        z = [np.zeros(spec.z_size, np.float32) if row.user_z is None else row.user_z for row in rows]
        inputs += [torch.from_numpy(np.stack(z)), torch.tensor([int(row.user_z is not None) for row in rows])]
    with torch.no_grad():
        scores = graph(*inputs).numpy()
    return [scores[place, : len(row.candidates)] for place, row in enumerate(rows)]


def check_ranker_parity(graph: RankerGraph, session: Any, spec: RankerSpec) -> float:
    """The widest gap of logits between torch and ONNX Runtime over the golden requests.

    Both in a batch and each request alone, and each of the first candidates alone: a score must depend neither on other
    requests nor on other candidates.

    Raises:
        ParityError: names the request and the gap, where it is above `TOLERANCE`.
    """
    n_items, widest = len(graph.items) - 1, 0.0
    cases, rows = golden_rows(spec, n_items, seed=11)
    wanted = torch_scores(graph, spec, rows)
    together = run_ranker(session, spec, n_items, rows)
    for place, (case, row) in enumerate(zip(cases, rows, strict=True)):
        alone = run_ranker(session, spec, n_items, [row])[0]
        single = [
            run_ranker(session, spec, n_items, [RankRow(row.history, row.scenario_index, [item], row.user_z)])[0]
            for item in row.candidates[:3]
        ]
        for how, found, expected in (
            ("in a batch", together[place], wanted[place]),
            ("alone", alone, wanted[place]),
            ("one candidate at a time", np.concatenate(single), wanted[place][: len(single)]),
        ):
            gap = float(np.abs(found - expected).max(initial=0.0))
            widest = max(widest, gap)
            if not gap <= TOLERANCE:  # NaN is a gap too
                raise ParityError(
                    f"{case} request {place}, {len(row.candidates)} candidates, {how}: ONNX Runtime and torch differ "
                    f"by {gap:.3g}, expected at most {TOLERANCE}"
                )
    return widest
