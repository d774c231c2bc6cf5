"""Runs the locustfile in a process of its own, because locust replaces parts of the one that imports it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from loadtest.console import INTERRUPTED
from loadtest.options import Ask, Sessions

_LOCUSTFILE = Path(__file__).with_name("locustfile.py")


def run_locust(
    ask: Ask,
    sessions: Sessions,
    *,
    host: str,
    users: int,
    duration_s: float,
    think_s: float,
    budget_ms: float,
    out: Path,
) -> int:
    """Exit code of the locust run (1 after any failed request, 130 after a Ctrl-C); its result is in `out`.

    A Ctrl-C of the terminal reaches locust too, which then stops and writes what it measured; here it is waited for.
    """
    law = sessions.law()
    options = {
        "items": ask.items,
        "dataset": sessions.dataset,
        "held-out": sessions.held_out,
        "state": sessions.state,
        "scenario": ask.scenario,
        "count": ask.count,
        "event-type": ask.event_type,
        "length-exponent": law.length_exponent,
        "popularity-exponent": law.popularity_exponent,
        "known-share": law.known_share,
        "n-users": law.n_users,
        "think-s": think_s,
        "budget-ms": budget_ms,
        "workload-seed": ask.seed,
        "result": out,
    }
    command = [sys.executable, "-m", "locust", "--locustfile", str(_LOCUSTFILE), "--headless", "--only-summary"]
    command += ["--host", host, "--users", str(users), "--spawn-rate", str(users), "--run-time", f"{duration_s:g}s"]
    for name, value in options.items():
        if value is not None:
            command += [f"--{name}", str(value)]
    process = subprocess.Popen(command)
    interrupted = False
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            interrupted = True
        else:
            return INTERRUPTED if interrupted else code
