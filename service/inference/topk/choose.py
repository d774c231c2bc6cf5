"""Which top-k backend serves a catalogue: by its size, or the one that was asked for."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from service.inference.topk.blocked import ExactTopK
from service.inference.topk.certified import CertifiedTopK
from service.inference.topk.contract import TopK
from service.inference.topk.groups import GroupSelector
from service.inference.topk.in_graph import InGraphTopK
from service.inference.topk.int8_scan import Int8Scan
from service.inference.topk.scan import FloatScan

# The exact backends; `approximate` is built from one of them, see `service.inference.topk.approximate`.
Backend = Literal["in-graph", "scan", "int8", "numpy"]
Choice = Literal["auto", "in-graph", "scan", "int8", "numpy", "approximate"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

# Up to here a private copy of the table is small, and sorting all scores costs less than looking at groups twice.
_SMALL_CATALOGUE = 200_000


def choose(choice: Choice, n_items: int) -> Backend:
    """The exact backend that was asked for, or the one for a catalogue of that size."""
    if choice != "auto" and choice != "approximate":
        return choice
    return "in-graph" if n_items <= _SMALL_CATALOGUE else "scan"


def make_topk(
    backend: Backend,
    items: NDArray[np.float32],
    available: NDArray[np.bool_],
    *,
    n_queries: int = 1,
    threads: int = 1,
    scan_threads: int = 1,
) -> TopK:
    """The backend over this table. All of them give the same answers.

    Args:
        items: float32 (n_items + 1, dim), finite; row 0 is padding. Read in place; `in-graph` and `int8` add a copy.
        available: bool (n_items + 1,). Kept, not copied: a change shows in the next search.
        n_queries: queries of a row.
        threads: threads of one search of `in-graph`; NumPy's are set for the whole process.
        scan_threads: those of one of `scan` or `int8`.

    Raises:
        ValueError: the two tables do not fit each other.
        SettingsError: ONNX Runtime is not there.
    """
    exact = ExactTopK(items, available)
    if backend == "numpy":
        return exact
    if backend == "in-graph":
        return InGraphTopK(items, available, exact, n_queries, threads)
    scan = CertifiedTopK(GroupSelector(FloatScan(items, scan_threads), items), items, available, exact)
    if backend == "scan":
        return scan
    return CertifiedTopK(GroupSelector(Int8Scan(items, scan_threads), items), items, available, scan)
