"""Where a benchmark keeps what it makes: outside the repository."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache() -> Path:
    """`bench/` in $AFTERGLOW_RUNS, or in `runs/` here."""
    return Path(os.environ.get("AFTERGLOW_RUNS", "runs")) / "bench"
