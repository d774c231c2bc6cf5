"""Artefacts of a benchmark: made once by scripts/bench_artefact.py, kept in a folder outside the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtest.bench.servers import ROOT
from loadtest.errors import InputError, LoadtestError
from loadtest.ids import read_item_ids
from loadtest.workload import power_law_cdf

HISTORY_EXPONENT = 1.0
POPULARITY_EXPONENT = 0.9
MAX_LENGTH = 50


@dataclass(frozen=True)
class Shape:
    """What decides speed: the model's kind, the number of items and the width of their table."""

    kind: str
    n_items: int
    dim: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.n_items}-d{self.dim}"


@dataclass(frozen=True)
class Made:
    """A made artefact: the folder for the service, the one for the peers, and the item ids, most popular first."""

    artefacts: Path
    whole: Path
    item_ids: Sequence[str]


def made(shape: Shape, cache: Path) -> Made:
    """The artefact of that shape; made first where the cache has none.

    Raises:
        LoadtestError: it could not be made; the reason is in the message.
    """
    artefacts, whole = cache / "artefacts" / shape.name, cache / "whole" / shape.name
    script = ROOT / "scripts" / "bench_artefact.py"
    if not artefacts.is_dir():
        if not script.is_file():
            raise InputError(f"{script} is not there; the benchmark runs from a checkout")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=cache) as temporary:
            command = [sys.executable, str(script), shape.kind, "--items", str(shape.n_items), "--dim", str(shape.dim)]
            command += ["--out", f"{temporary}/artefacts"]
            if shape.kind != "last-item":
                command += ["--whole", f"{temporary}/whole"]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise LoadtestError(f"{script.name} {shape.name}: code {done.returncode}\n{done.stderr[-2000:]}")
            for made_now, kept in ((f"{temporary}/whole", whole), (f"{temporary}/artefacts", artefacts)):
                if Path(made_now).is_dir():
                    shutil.rmtree(kept, ignore_errors=True)
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    Path(made_now).rename(kept)
    version = next(path.parent for path in artefacts.glob("*/*/manifest.json"))
    item_ids = read_item_ids(version)
    names = whole / "item_ids.txt"
    if whole.is_dir() and not names.is_file():
        # By row, which is by id: the order of popularity is for the workload alone.
        names.write_text("\n".join(sorted(item_ids)) + "\n", encoding="utf-8")
    return Made(artefacts, whole, item_ids)


def histories(item_ids: Sequence[str], n: int, *, seed: int) -> list[list[str]]:
    """`n` histories, oldest first: lengths 1 to 50 with P(l) ~ 1/l (mean 11), items by a power law of popularity."""
    rng = np.random.default_rng(seed)
    lengths = 1 + np.searchsorted(power_law_cdf(MAX_LENGTH, HISTORY_EXPONENT), rng.random(n), side="right")
    cdf = power_law_cdf(len(item_ids), POPULARITY_EXPONENT)
    return [
        [item_ids[row] for row in np.searchsorted(cdf, rng.random(length), side="right")] for length in lengths.tolist()
    ]
