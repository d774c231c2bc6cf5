"""`golden.npz`: histories whose answers were written down at export, and reproduced before an artefact serves.

The run is also the warm-up: every batch shape's first call is slower than the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.artefact.manifest import GoldenSpec, Manifest
from service.errors import AfterglowError, ArtefactError, ArtefactRefused
from service.inference.golden_arrays import check_arrays, flat, load_arrays, offsets_of
from service.inference.retriever import Retriever
from service.inference.topk import Ranked, TopK

Encode = Callable[[Sequence[Sequence[int]]], NDArray[np.float32]]

# Whatever the spread of one history's scores, float32 rounds by the size of the numbers that went into them.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Golden:
    """n histories and what the model says of them; a history without k items has 0 in the empty slots."""

    cases: list[str]  # n names of GoldenSpec.cases
    histories: list[list[int]]
    queries: NDArray[np.float32]  # (n, n_queries, dim)
    top_items: NDArray[np.int64]  # (n, k)
    top_scores: NDArray[np.float32]  # (n, k)
    score_std: NDArray[np.float64]  # (n,) standard deviation over the catalogue

    def ranked(self, row: int) -> Ranked:
        filled = self.top_items[row] > 0
        return self.top_items[row][filled], self.top_scores[row][filled]

    def tolerance(self, row: int, spec: GoldenSpec) -> float:
        """How far two scores of this history may lie apart."""
        largest = float(np.abs(self.top_scores).max(initial=0.0))
        return spec.atol_per_std * float(self.score_std[row]) + _ROUNDING * largest

    def query_tolerance(self, spec: GoldenSpec) -> float:
        """How far two numbers of a query may lie apart: by the size of all queries, an empty history's may be zero."""
        return spec.atol_per_std * float(np.sqrt(np.square(self.queries, dtype=np.float64).mean()))


def golden_histories(max_seq_len: int, n_items: int, seed: int = 7) -> tuple[list[str], list[list[int]]]:
    """Case names and seeded histories: empty, short (1, 2 and about half), exact and over-long."""
    rng = np.random.default_rng(seed)
    lengths = {
        "empty": [0],
        "short": sorted({1, min(2, max_seq_len), (max_seq_len + 1) // 2}),
        "exact": [max_seq_len, max_seq_len],
        "over-long": [max_seq_len + 1, 2 * max_seq_len + 3],
    }
    cases, histories = [], []
    for case, sizes in lengths.items():
        for size in sizes:
            cases.append(case)
            histories.append(rng.integers(1, n_items + 1, size=size).tolist())
    return cases, histories


def make_golden(
    cases: list[str], histories: list[list[int]], encode: Encode, topk: TopK, items: NDArray[np.float32], k: int
) -> Golden:
    """The answers of `encode` and `topk`, written down."""
    queries = encode(histories)
    top_items = np.zeros((len(histories), k), np.int64)
    top_scores = np.zeros((len(histories), k), np.float32)
    score_std = np.zeros(len(histories), np.float64)
    for row, (indices, scores) in enumerate(topk.search(queries, k, [np.empty(0, np.int64)] * len(histories))):
        top_items[row, : len(indices)] = indices
        top_scores[row, : len(scores)] = scores
        score_std[row] = (items[1:] @ queries[row].T).max(axis=1).std(dtype=np.float64)
    return Golden(cases, histories, queries, top_items, top_scores, score_std)


def write_golden(path: Path, golden: Golden) -> None:
    """`golden.npz` without pickles; histories as one flat array and offsets."""
    np.savez(
        path,
        case=np.array(golden.cases),
        history_items=flat(golden.histories),
        history_offsets=offsets_of(golden.histories),
        queries=golden.queries,
        top_items=golden.top_items,
        top_scores=golden.top_scores,
        score_std=golden.score_std,
    )


def read_golden(path: Path, manifest: Manifest) -> Golden:
    """The golden answers of an artefact.

    Raises:
        ArtefactError: the file is unreadable, or its arrays do not fit the manifest or each other.
    """
    found = load_arrays(path)
    n, k = len(found.get("case", ())), manifest.golden.k
    total = len(found.get("history_items", ()))
    expected = {
        "case": ("U", (n,)),
        "history_items": ("int64", (total,)),
        "history_offsets": ("int64", (n + 1,)),
        "queries": ("float32", (n, manifest.encoder.n_queries, manifest.encoder.dim)),
        "top_items": ("int64", (n, k)),
        "top_scores": ("float32", (n, k)),
        "score_std": ("float64", (n,)),
    }
    check_arrays(path, found, expected)
    offsets = found["history_offsets"]
    if offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 0).any():
        raise ArtefactError(f"{path.name}: history_offsets do not cut history_items into {n} histories")
    cases = found["case"].tolist()
    if set(cases) != set(manifest.golden.cases):
        raise ArtefactError(f"{path.name}: cases are {sorted(set(cases))}, the manifest says {manifest.golden.cases}")
    histories = [found["history_items"][a:b].tolist() for a, b in pairwise(offsets)]
    return Golden(cases, histories, found["queries"], found["top_items"], found["top_scores"], found["score_std"])


def check_golden(retriever: Retriever, topk: TopK) -> None:
    """Nothing, when the loaded model answers as it did at export, alone and in a batch.

    Raises:
        ArtefactRefused: names each case and its gap.
    """
    manifest = retriever.artefact.manifest
    label = f"{manifest.name}/{manifest.version}"
    name = manifest.golden.file
    try:
        golden = read_golden(retriever.artefact.path / name, manifest)
        together = retriever.encode_together(golden.histories)
        alone = np.concatenate([retriever.encode([history]) for history in golden.histories])
    except ArtefactError as error:
        raise ArtefactRefused(label, [str(error)]) from error
    except AfterglowError as error:
        raise ArtefactRefused(label, [f"{name}: {error}"]) from error
    reasons = []
    for batch, queries in (("in a batch", together), ("alone", alone)):
        ranked = topk.search(queries, manifest.golden.k, [np.empty(0, np.int64)] * len(queries))
        for row, case in enumerate(golden.cases):
            fault = _query_fault(golden.queries[row], queries[row], golden.query_tolerance(manifest.golden))
            fault = fault or ranking_fault(golden.ranked(row), ranked[row], golden.tolerance(row, manifest.golden))
            if fault:
                length = len(golden.histories[row])
                reasons.append(f"{name}: case {case!r} (history of {length}), run {batch}: {fault}")
    if reasons:
        raise ArtefactRefused(label, reasons)


def ranking_fault(expected: Ranked, found: Ranked, atol: float) -> str | None:
    """None when two rankings agree: the same items and scores, but for swaps among items closer than `atol`."""
    wanted = dict(zip(*(side.tolist() for side in expected), strict=True))
    given = dict(zip(*(side.tolist() for side in found), strict=True))
    if len(wanted) != len(given):
        return f"{len(given)} items came back, expected {len(wanted)}"
    for item, score in wanted.items():
        if item in given and not abs(given[item] - score) <= atol:
            return f"item {item} scores {given[item]:.8g}, expected {score:.8g} within {atol:.1g}"
        if item not in given and not score <= min(given.values()) + atol:
            return f"item {item} is expected with score {score:.8g} and did not come back"
    for item, score in given.items():
        if item not in wanted and not score <= min(wanted.values()) + atol:
            return f"item {item} came back with score {score:.8g} and is not expected"
    return None


def _query_fault(expected: NDArray[np.float32], found: NDArray[np.float32], atol: float) -> str | None:
    gap = float(np.abs(expected - found).max(initial=0.0))
    return None if gap <= atol else f"queries are off by {gap:.3g}, tolerance {atol:.3g}"
