"""Figures of a run, from the outcome of its requests: pure arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.bench.exchange import NO_TIER, TIERS, Outcome

LEVELS = (50.0, 90.0, 99.0, 99.9)
_MODEL = TIERS.index("model")
# A recovered service answers this share of a window's requests as it should.
_RECOVERED_SHARE = 0.99
_WINDOW_S = 0.25
_WINDOWS_IN_ROW = 4


def latency_ms(outcome: Outcome) -> NDArray[np.float64]:
    """Milliseconds from the planned moment of each request to its whole reply."""
    return (outcome.done - outcome.planned) * 1e3


def percentiles(values: NDArray[np.float64]) -> dict[str, float] | None:
    """p50, p90, p99, p99.9 and max; each is a value that occurred (the next one up). None where there is none."""
    if not len(values):
        return None
    found = np.percentile(values, LEVELS, method="higher")
    named = {f"p{level:g}": round(float(value), 3) for level, value in zip(LEVELS, found, strict=True)}
    return named | {"max": round(float(values.max()), 3)}


def is_first_tier(outcome: Outcome) -> NDArray[np.bool_]:
    """Whether the model itself answered: status 200, and tier `model` where the server names tiers at all."""
    return (outcome.status == 200) & ((outcome.tier == _MODEL) | (outcome.tier == NO_TIER))


def between(outcome: Outcome, from_s: float, until_s: float) -> Outcome:
    """The requests planned within [from_s, until_s)."""
    kept = (outcome.planned >= from_s) & (outcome.planned < until_s)
    columns = {name: getattr(outcome, name)[kept] for name in ("planned", "sent", "done", "status", "tier")}
    return Outcome(**columns, foreign=outcome.foreign, cpu_s=outcome.cpu_s, seconds=until_s - from_s)


def summary(outcome: Outcome, *, budget_ms: float, slack_ms: float = 0.0) -> dict[str, Any]:
    """What a run says of a server.

    `goodput_per_s` counts replies of the first tier within the budget; `within_budget_share` counts replies of any
    tier within budget + slack among all requests. `refusal_ms` is the time to a 503 and `lower_tier_ms` to a reply of a
    lower tier, both from the moment of sending, as is `goodput_since_sent_per_s`: what a server that shares its cores
    with a generator at its limit can be held to.
    """
    n = len(outcome.planned)
    waited = latency_ms(outcome)
    since_sent = (outcome.done - outcome.sent) * 1e3
    ok = outcome.status == 200
    first = is_first_tier(outcome)
    refused = outcome.status == 503
    tiers = {name: int((ok & (outcome.tier == number)).sum()) for number, name in enumerate(TIERS)}
    tiers["unnamed"] = int((ok & (outcome.tier == NO_TIER)).sum())
    lag_ms = (outcome.sent - outcome.planned)[~np.isnan(outcome.sent)] * 1e3
    return {
        "requests": n,
        "per_s": round(n / outcome.seconds, 1),
        "ok_per_s": round(int(ok.sum()) / outcome.seconds, 1),
        "goodput_per_s": round(int((first & (waited <= budget_ms)).sum()) / outcome.seconds, 1),
        "goodput_since_sent_per_s": round(int((first & (since_sent <= budget_ms)).sum()) / outcome.seconds, 1),
        "latency_ms": percentiles(waited[ok]),
        "first_tier_share": _share(first.sum(), n),
        "within_budget_share": _share((ok & (waited <= budget_ms + slack_ms)).sum(), n),
        "tiers": {name: count for name, count in tiers.items() if count},
        "refused": int(refused.sum()),
        "refusal_ms": percentiles(since_sent[refused]),
        "lower_tier_ms": percentiles(since_sent[ok & ~first]),
        "failed": int((~ok & ~refused).sum()),
        "send_lag_ms": percentiles(lag_ms),
    }


def recovery_s(outcome: Outcome, *, from_s: float, budget_ms: float) -> float | None:
    """Seconds after `from_s` until the service answers as it should again; None where it never does.

    Counted in windows of 0.25 s by planned time: recovered is the begin of the first four in a row in which 99 % of the
    requests got the first tier within the budget.
    """
    good = is_first_tier(outcome) & (latency_ms(outcome) <= budget_ms)
    n_windows = int((outcome.seconds - from_s) / _WINDOW_S)
    in_row = 0
    for window in range(n_windows):
        begin = from_s + window * _WINDOW_S
        inside = (outcome.planned >= begin) & (outcome.planned < begin + _WINDOW_S)
        in_row = in_row + 1 if inside.any() and good[inside].mean() >= _RECOVERED_SHARE else 0
        if in_row == _WINDOWS_IN_ROW:
            return round((window + 1 - _WINDOWS_IN_ROW) * _WINDOW_S, 3)
    return None


def median(values: list[float]) -> float:
    return float(np.median(values))


def _share(part: Any, whole: int) -> float:
    return round(float(part) / whole, 5) if whole else 0.0
