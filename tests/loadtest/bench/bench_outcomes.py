"""Outcomes worked by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loadtest.bench.exchange import Outcome


def outcome(
    planned: Sequence[float],
    took_ms: Sequence[float],
    *,
    status: Sequence[int] | None = None,
    tier: Sequence[int] | None = None,
    seconds: float = 1.0,
    lag_ms: float = 0.0,
) -> Outcome:
    """Requests by the second they were due and the milliseconds from then to their reply."""
    n = len(planned)
    due = np.array(planned, float)
    return Outcome(
        planned=due,
        sent=due + lag_ms / 1e3,
        done=due + np.array(took_ms, float) / 1e3,
        status=np.array([200] * n if status is None else status, np.int16),
        tier=np.array([0] * n if tier is None else tier, np.int8),
        seconds=seconds,
    )
