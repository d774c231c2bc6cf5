"""`golden.npz` of a ranker: requests whose scores were written down at export, and reproduced before it serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.artefact.manifest import GoldenSpec, RankerManifest, RankerSpec
from service.errors import AfterglowError, ArtefactError, ArtefactRefused
from service.inference.golden_arrays import check_arrays, flat, load_arrays, offsets_of
from service.inference.ranker import Ranker, RankRow

Score = Callable[[Sequence[RankRow]], list[NDArray[np.float32]]]

N_CANDIDATES = (1, 2, 200)
# Whatever the spread of one request's scores, float32 rounds by the size of the numbers that went into them.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class RankerGolden:
    """n requests and what the model says of them."""

    cases: list[str]
    rows: list[RankRow]
    scores: list[NDArray[np.float32]]

    def tolerance(self, spec: GoldenSpec) -> float:
        """How far two scores may lie apart."""
        scores = np.concatenate(self.scores)
        spread, largest = float(scores.std(dtype=np.float64)), float(np.abs(scores).max(initial=0.0))
        return spec.atol_per_std * spread + _ROUNDING * largest


def golden_rows(ranker: RankerSpec, n_items: int, seed: int = 7) -> tuple[list[str], list[RankRow]]:
    """Case names and seeded requests: empty, short, exact and over-long histories in every scenario.

    Candidates are 1, 2 or 200 in turn; every other request brings a z, where the ranker takes one.
    """
    rng = np.random.default_rng(seed)
    longest = ranker.max_seq_len
    lengths = {"empty": 0, "short": (longest + 1) // 2, "exact": longest, "over-long": 2 * longest + 3}
    cases: list[str] = []
    rows: list[RankRow] = []
    for scenario in range(len(ranker.scenarios)):
        for case, length in lengths.items():
            n_candidates = N_CANDIDATES[len(rows) % len(N_CANDIDATES)]
            has_z = ranker.z_size and len(rows) % 2 == 0
            rows.append(
                RankRow(
                    history=rng.integers(1, n_items + 1, size=length).tolist(),
                    scenario_index=scenario,
                    candidates=rng.integers(1, n_items + 1, size=n_candidates).tolist(),
                    user_z=np.abs(rng.standard_normal(ranker.z_size)).astype(np.float32) if has_z else None,
                )
            )
            cases.append(case)
    return cases, rows


def write_ranker_golden(path: Path, golden: RankerGolden, z_size: int) -> None:
    """`golden.npz` without pickles; ragged parts as one flat array and offsets."""
    rows = golden.rows
    z = np.stack([np.zeros(z_size, np.float32) if row.user_z is None else row.user_z for row in rows])
    np.savez(
        path,
        case=np.array(golden.cases),
        scenario_index=np.array([row.scenario_index for row in rows], dtype=np.int64),
        user_z=z.astype(np.float32),
        has_user_z=np.array([row.user_z is not None for row in rows], dtype=np.int64),
        history_items=flat([row.history for row in rows]),
        history_offsets=offsets_of([row.history for row in rows]),
        candidate_items=flat([row.candidates for row in rows]),
        candidate_offsets=offsets_of([row.candidates for row in rows]),
        scores=np.concatenate(golden.scores),
    )


def read_ranker_golden(path: Path, manifest: RankerManifest) -> RankerGolden:
    """The golden requests of an artefact.

    Raises:
        ArtefactError: the file is unreadable, or its arrays do not fit the manifest or each other.
    """
    found = load_arrays(path)
    n = len(found.get("case", ()))
    total, shown = len(found.get("history_items", ())), len(found.get("candidate_items", ()))
    expected = {
        "case": ("U", (n,)),
        "scenario_index": ("int64", (n,)),
        "user_z": ("float32", (n, manifest.ranker.z_size)),
        "has_user_z": ("int64", (n,)),
        "history_items": ("int64", (total,)),
        "history_offsets": ("int64", (n + 1,)),
        "candidate_items": ("int64", (shown,)),
        "candidate_offsets": ("int64", (n + 1,)),
        "scores": ("float32", (shown,)),
    }
    check_arrays(path, found, expected)
    for name, size in (("history_offsets", total), ("candidate_offsets", shown)):
        offsets = found[name]
        if offsets[0] != 0 or offsets[-1] != size or (np.diff(offsets) < 0).any():
            raise ArtefactError(f"{path.name}: {name} do not cut {size} entries into {n} requests")
    cases = found["case"].tolist()
    if set(cases) != set(manifest.golden.cases):
        raise ArtefactError(f"{path.name}: cases are {sorted(set(cases))}, expected {sorted(manifest.golden.cases)}")
    histories = np.split(found["history_items"], found["history_offsets"][1:-1])
    candidates = np.split(found["candidate_items"], found["candidate_offsets"][1:-1])
    rows = [
        RankRow(
            histories[place].tolist(),
            int(found["scenario_index"][place]),
            candidates[place].tolist(),
            found["user_z"][place] if found["has_user_z"][place] else None,
        )
        for place in range(n)
    ]
    return RankerGolden(cases, rows, np.split(found["scores"], found["candidate_offsets"][1:-1]))


def check_ranker_golden(ranker: Ranker) -> None:
    """Nothing if the ranker gives the scores it was exported with, together and one request at a time.

    Raises:
        ArtefactRefused: names the first request that differs, and by how much.
    """
    manifest = ranker.artefact.manifest
    label, file = f"{manifest.name}/{manifest.version}", manifest.golden.file
    try:
        golden = read_ranker_golden(ranker.artefact.path / file, manifest)
        found = ranker.score(golden.rows)
        alone = [ranker.score([row])[0] for row in golden.rows]
    except ArtefactRefused:
        raise
    except AfterglowError as error:
        raise ArtefactRefused(label, [str(error)]) from error
    atol = golden.tolerance(manifest.golden)
    for how, scores in (("together", found), ("alone", alone)):
        for place, (expected, given) in enumerate(zip(golden.scores, scores, strict=True)):
            gap = float(np.abs(expected - given).max(initial=0.0))
            if not gap <= atol:  # NaN is a gap too
                reason = (
                    f"{file}: {golden.cases[place]} request {place}, run {how}: scores are off by {gap:.3g}, "
                    f"tolerance {atol:.3g}"
                )
                raise ArtefactRefused(label, [reason])
