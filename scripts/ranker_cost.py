"""What generated meta layers cost in serving: 200 candidates by LLM4MSR and by its plain backbone, side by side.

    python scripts/ranker_cost.py artefacts/shop-msr/VERSION artefacts/shop-plain/VERSION --rounds 300

Both graphs run in ONNX Runtime on one thread with the same histories and candidates; rounds alternate, so that whatever
else the machine does hits both. Prints JSON: median and p95 of a run of each, and the ratio of medians.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from service.artefact.ranker_directory import open_ranker
from service.inference.ranker import Ranker, RankRow


def main(
    ranker: Annotated[Path, typer.Argument(help="Folder of an artefact's version.")],
    plain: Annotated[Path, typer.Argument(help="The same of its plain backbone.")],
    candidates: Annotated[int, typer.Option(min=1)] = 200,
    rounds: Annotated[int, typer.Option(min=10)] = 300,
) -> None:
    """Measure both and print the ratio of their medians."""
    both = {"ranker": ranker, "plain": plain}
    loaded = {name: Ranker(open_ranker(path), intra_op_threads=1, device="cpu") for name, path in both.items()}
    rows = {name: _rows(model, candidates) for name, model in loaded.items()}
    seconds: dict[str, list[float]] = {name: [] for name in loaded}
    for turn in range(rounds + 20):
        for name, model in loaded.items():
            started = time.perf_counter()
            model.score([rows[name][turn % len(rows[name])]])
            if turn >= 20:  # the first runs allocate
                seconds[name].append(time.perf_counter() - started)
    found: dict[str, Any] = {
        name: {
            "artefact": f"{model.artefact.manifest.name}@{model.artefact.manifest.version}",
            "kind": model.artefact.manifest.ranker.kind,
            "median_ms": round(float(np.median(seconds[name])) * 1000, 4),
            "p95_ms": round(float(np.percentile(seconds[name], 95)) * 1000, 4),
        }
        for name, model in loaded.items()
    }
    ratio = found["ranker"]["median_ms"] / found["plain"]["median_ms"]
    print(json.dumps({**found, "candidates": candidates, "rounds": rounds, "ratio": round(ratio, 3)}, indent=2))


def _rows(model: Ranker, candidates: int) -> list[RankRow]:
    """Requests with full histories, the same for both models; every other one brings a z where there is one."""
    manifest, rng = model.artefact.manifest, np.random.default_rng(0)
    spec, n_items = manifest.ranker, manifest.n_items
    rows = []
    for turn in range(16):
        history = rng.integers(1, n_items + 1, spec.max_seq_len).tolist()
        shown = rng.integers(1, n_items + 1, candidates).tolist()
        z: NDArray[np.float32] | None = None
        if spec.z_size and turn % 2:
            z = np.abs(np.random.default_rng(turn).standard_normal(spec.z_size)).astype(np.float32)
        rows.append(RankRow(history, turn % len(spec.scenarios), shown, z))
    return rows


if __name__ == "__main__":
    typer.run(main)
