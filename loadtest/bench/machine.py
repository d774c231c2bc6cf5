"""What the machine gives: bytes and multiplications per second, and which cores are whose."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from loadtest.bench.figures import median
from loadtest.bench.servers import ROOT
from loadtest.errors import InputError
from loadtest.results import describe_machine

_REPEATS = 7


@dataclass(frozen=True)
class Cores:
    """Where servers may run, and where the generators: one process on each."""

    server: tuple[int, ...]
    generator: tuple[int, ...]

    def describe(self) -> dict[str, Any]:
        return {"server": list(self.server), "generator": list(self.generator), "shared": self.are_shared}

    @property
    def are_shared(self) -> bool:
        return bool(set(self.server) & set(self.generator))


def divide(available: Sequence[int]) -> Cores:
    """Two cores: servers get both and share the last with the generator. More: a quarter is the generators' alone."""
    ordered = tuple(sorted(available))
    if len(ordered) <= 2:
        return Cores(ordered, ordered[-1:])
    n_generators = max(1, len(ordered) // 4)
    return Cores(ordered[:-n_generators], ordered[-n_generators:])


def parse_cores(text: str | None) -> tuple[int, ...] | None:
    """ "0,2-3" -> (0, 2, 3)."""
    if text is None:
        return None
    found: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
    except ValueError:
        raise InputError(f"cores: {text!r} is not of the form 0,2-3") from None
    unknown = set(found) - os.sched_getaffinity(0)
    if unknown:
        raise InputError(
            f"cores: {sorted(unknown)} are not available; expected some of {sorted(os.sched_getaffinity(0))}"
        )
    return tuple(found)


def calibrate(threads: int) -> dict[str, float]:
    """Bytes read and multiplications a second with that many threads of BLAS.

    In a process of its own, because BLAS reads its number of threads only once.
    """
    code = "import json; from loadtest.bench.machine import measured_here; print(json.dumps(measured_here()))"
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, check=True
    )
    return {f"{name}_{threads}_threads": value for name, value in orjson.loads(done.stdout).items()}


def measured_here(n_mb: int = 256, n_items: int = 100_000, dim: int = 64) -> dict[str, float]:
    """GB/s of a dot product over `n_mb` (BLAS does nothing else there but read), and GFLOP/s of sgemm.

    A square product tells the peak; (1 and 32, dim) by (dim, n_items) what a catalogue scan can reach of it.
    """
    rng = np.random.default_rng(7)
    table = rng.standard_normal((n_items, dim), dtype=np.float32)
    square = rng.standard_normal((1024, 1024), dtype=np.float32)
    block = np.ones(n_mb * (1 << 20) // 4, np.float32)
    out = {"read_gb_per_s": round(block.nbytes / 1e9 / median(_timed(lambda: block @ block)), 2)}
    peak = _timed(lambda: square @ square)
    out["sgemm_square_gflops"] = round(2 * 1024**3 / 1e9 / median(peak), 1)
    for batch in (1, 32):
        queries = rng.standard_normal((batch, dim), dtype=np.float32)
        seconds = median(_timed(partial(np.matmul, queries, table.T)))
        out[f"sgemm_scan_b{batch}_gflops"] = round(2 * batch * n_items * dim / 1e9 / seconds, 1)
    return out


def versions(packages: Sequence[str], python: Path | None = None) -> dict[str, str]:
    """Installed versions, in this environment or in that of another interpreter."""
    if python is None:
        return {name: found for name in packages if (found := _version(name))}
    code = "import sys\nfrom importlib.metadata import version\nfor n in sys.argv[1:]:\n print(n, version(n))"
    done = subprocess.run([str(python), "-c", code, *packages], capture_output=True, text=True, check=False)
    return dict(line.split() for line in done.stdout.splitlines())


def describe(cores: Cores, root: Path) -> dict[str, Any]:
    """The machine, its cores as they are used here, and the commit of the checkout that is measured."""
    packages = versions(("onnxruntime", "numpy", "fastapi", "uvicorn", "uvloop", "pydantic", "redis", "orjson"))
    return {**describe_machine(), "used_cores": cores.describe(), "commit": commit(root), "packages": packages}


def commit(root: Path) -> str | None:
    """The checkout's commit; with `+` where tracked files differ from it."""
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, check=False)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.returncode else "")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _timed(work: Callable[[], object]) -> list[float]:
    work()
    seconds = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return seconds
