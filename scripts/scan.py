"""How fast each top-k backend reads a catalogue, against what this machine can do.

The read bandwidth and the rate of a large sgemm are measured in the same run; every backend is then measured in rounds
that take turns, and each figure is the median of its rounds. Ratios come first: milliseconds say little of another
machine. `--memory` instead starts worker processes over one table and reports what they hold together.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's BLAS reads it when it is imported

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from service.inference.topk import BACKENDS, Backend, make_topk

app = typer.Typer(rich_markup_mode="markdown", add_completion=False)
say = Console(stderr=True)

BATCHES = (1, 8, 16, 32, 256)


@app.command()
def main(
    items: Annotated[int, typer.Option(min=1, help="Items of the synthetic catalogue.")] = 1_000_000,
    dim: Annotated[int, typer.Option(min=1, help="Numbers of a vector.")] = 64,
    table: Annotated[Path | None, typer.Option(help="items.npy of an artefact, instead of a synthetic one.")] = None,
    backend: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(BACKENDS)}; repeatable.")] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Rows of a search; repeatable.")] = None,
    rounds: Annotated[int, typer.Option(min=3, help="Measurements of each.")] = 9,
    queries: Annotated[int, typer.Option(min=1, help="Queries of a row: EIMF's interests.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one search; set OPENBLAS_NUM_THREADS alike.")] = 1,
    seen: Annotated[int, typer.Option(min=0, help="Items that each row excludes, the best ones first.")] = 0,
    memory: Annotated[bool, typer.Option(help="Measure the memory of two workers instead.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures there, too.")] = None,
) -> None:
    """Measure the top-k backends.

    **Examples**

    `python scripts/scan.py --items 1000000 --dim 64 --json scan.json`

    `python scripts/scan.py --table artefacts/shop/20261121T145649Z-c5fd6c69/items.npy --backend in-graph`

    `python scripts/scan.py --items 1000000 --queries 4 --backend scan --backend int8`

    `python scripts/scan.py --items 1000000 --memory --backend scan`
    """
    names = backend or (["scan"] if memory else [name for name in BACKENDS if name != "in-graph" or items <= 100_000])
    unknown = set(names) - set(BACKENDS)
    if unknown:
        raise typer.BadParameter(f"found {', '.join(sorted(unknown))}, expected {', '.join(BACKENDS)}")
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = table or _write_table(Path(folder) / "items.npy", items, dim)
            report = (
                {name: _memory_of_two(path, name) for name in names}
                if memory
                else _measure(path, names, batch or list(BATCHES), queries, rounds, threads, seen)
            )
    except KeyboardInterrupt:
        say.print("interrupted")
        raise typer.Exit(130) from None
    if out is not None:
        out.write_text(json.dumps(report, indent=2) + "\n")
    if memory and any(figures["over_mb"] > 0 for figures in report.values()):
        raise typer.Exit(1)


def _write_table(path: Path, n_items: int, dim: int) -> Path:
    """Normal vectors whose lengths are skewed, as popularity skews those of trained tables."""
    rng = np.random.default_rng(20)
    table = np.lib.format.open_memmap(path, "w+", np.float32, (n_items + 1, dim))
    for start in range(0, n_items + 1, 100_000):
        block = table[start : start + 100_000]
        block[:] = rng.standard_normal(block.shape, dtype=np.float32)
        block *= rng.lognormal(0, 0.25, (len(block), 1)).astype(np.float32)
    table[0] = 0
    table.flush()
    return path


def _measure(
    path: Path, names: list[str], batches: list[int], per_row: int, rounds: int, threads: int, seen: int
) -> dict[str, Any]:
    items: NDArray[np.float32] = np.load(path, mmap_mode="r")
    available = np.ones(len(items), np.bool_)
    available[0] = False
    bandwidth, sgemm = _read_gb_s(items), _sgemm_gflop_s()
    print(f"{len(items) - 1:,} x {items.shape[1]}; reads {bandwidth:.1f} GB/s, sgemm {sgemm:.0f} GFLOP/s, medians")
    backends = {}
    for name in names:
        started = time.perf_counter()
        backends[name] = make_topk(
            _backend(name), items, available, n_queries=per_row, threads=threads, scan_threads=threads
        )
        print(f"  {name}: ready in {time.perf_counter() - started:.2f} s")
    report: dict[str, Any] = {
        "items": len(items) - 1, "dim": items.shape[1], "queries": per_row, "threads": threads, "seen": seen,
        "cpus": os.cpu_count(), "read_gb_s": bandwidth, "sgemm_gflop_s": sgemm, "batches": {},
    }  # fmt: skip
    rng = np.random.default_rng(21)
    print(
        f"{'batch':>5} {'backend':>9} {'of roofline':>11} {'of sgemm':>8} {'of bandwidth':>12} "
        f"{'median ms':>10} best ms"
    )
    for batch in batches:
        queries = rng.standard_normal((batch, per_row, items.shape[1])).astype(np.float32)
        nothing = [np.empty(0, np.int64)] * batch
        excluded = nothing
        if seen:
            excluded = [found for found, _ in next(iter(backends.values())).search(queries, seen, nothing)]
        answers = [[ids.tolist() for ids, _ in topk.search(queries, 20, excluded)] for topk in backends.values()]
        different = sum(any(row != answer[0] for row in answer) for answer in zip(*answers, strict=True))
        before = {name: topk.fallbacks for name, topk in backends.items()}
        calls = {name: _search(topk, queries, excluded) for name, topk in backends.items()}
        times = _take_turns(calls, rounds)
        by_bytes, by_flops = items.nbytes / bandwidth / 1e6, 2 * items.size * batch * per_row / sgemm / 1e6
        report["batches"][batch] = {"different_answers": different}
        for name, ms in times.items():
            median, best = float(np.median(ms)), min(ms)
            figures = {
                "of_roofline": max(by_bytes, by_flops) / median, "of_sgemm": by_flops / median,
                "of_bandwidth": by_bytes / median, "median_ms": median, "best_ms": best,
                "fallbacks": backends[name].fallbacks - before[name],
            }  # fmt: skip
            report["batches"][batch][name] = figures
            print(
                f"{batch:>5} {name:>9} {figures['of_roofline']:>11.2f} {figures['of_sgemm']:>8.2f} "
                f"{figures['of_bandwidth']:>12.2f} {median:>10.2f} {best:.2f}"
                + (f"  {figures['fallbacks']} fall-backs" if figures["fallbacks"] else "")
            )
        if different:
            print(f"      {different} of {batch} rows differ between backends")
        sys.stdout.flush()
    return report


def _backend(name: str) -> Backend:
    return next(known for known in BACKENDS if known == name)


def _search(topk: Any, queries: NDArray[np.float32], excluded: list[NDArray[np.int64]]) -> Callable[[], object]:
    return lambda: topk.search(queries, 20, excluded)


def _take_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call in each round; calls take turns, so that a busy moment hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - started) * 1000)
    return times


def _read_gb_s(items: NDArray[np.float32]) -> float:
    """What one thread reads of the mapped table itself: the best of several ways to go through it."""
    words = np.asarray(items).reshape(-1).view(np.int32)
    ways: dict[str, Callable[[], object]] = {
        "or": lambda: np.bitwise_or.reduce(words),
        "max": lambda: words.max(),
        "sum": lambda: np.asarray(items).sum(),
    }
    times = _take_turns(ways, 5)
    return float(items.nbytes / min(np.median(ms) for ms in times.values()) / 1e6)


def _sgemm_gflop_s() -> float:
    rng = np.random.default_rng(22)
    a, b = (rng.standard_normal((2048, 2048), dtype=np.float32) for _ in range(2))
    c = np.empty_like(a)
    (ms,) = _take_turns({"sgemm": lambda: np.matmul(a, b, out=c)}, 5).values()
    return float(2 * 2048**3 / np.median(ms) / 1e6)


_WORKER = """
import sys
import numpy as np
from service.inference.topk import make_topk
items = np.load(sys.argv[1], mmap_mode="r")
available = np.ones(len(items), np.bool_)
available[0] = False
topk = make_topk(sys.argv[2], items, available)
rng = np.random.default_rng(0)
for batch in (1, 32, 7, 32):
    queries = rng.standard_normal((batch, 1, items.shape[1])).astype(np.float32)
    topk.search(queries, 20, [np.empty(0, np.int64)] * batch)
print("ready", flush=True)
sys.stdin.read()
"""


def _memory_of_two(path: Path, name: str) -> dict[str, float]:
    """PSS of two processes that have searched the table, against 1.3 x the table + 300 MB for each."""
    table_mb = path.stat().st_size / 1e6
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            if worker.stdout.readline() != "ready\n":
                raise RuntimeError(f"a worker with {name} ended early")
        together = sum(_pss_mb(worker.pid) for worker in workers)
    finally:
        for worker in workers:
            worker.communicate("")
    bound = 1.3 * table_mb + 300 * len(workers)
    print(f"{name}: two workers hold {together:.0f} MB (PSS); table {table_mb:.0f} MB, bound {bound:.0f} MB")
    return {"pss_mb": together, "table_mb": table_mb, "bound_mb": bound, "over_mb": together - bound}


def _pss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has no Pss")


if __name__ == "__main__":
    app()
