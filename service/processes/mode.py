"""How many processes and threads a service runs with."""

from __future__ import annotations

import os

from service.settings import Settings


def mode(settings: Settings) -> str:
    """One sentence on the processes that will run."""
    workers = "1 process" if settings.workers == 1 else f"{settings.workers} processes"
    threads = "1 thread" if settings.intra_op_threads == 1 else f"{settings.intra_op_threads} threads"
    if settings.engine_process:
        return f"{workers} for HTTP, 1 engine process for the models ({threads} a run)"
    if settings.workers > 1:
        return f"{workers}, each for HTTP and with models of its own ({threads} a run)"
    return f"1 process for HTTP and models ({threads} a run)"


def threads_wanted(settings: Settings) -> int:
    """Threads that can be busy at once: those of model runs and, where models run elsewhere, the event loops."""
    of_a_run = max(settings.intra_op_threads, settings.scan_threads or 1)
    if settings.engine_process:
        return settings.workers + of_a_run
    return settings.workers * of_a_run


def scan_threads(settings: Settings) -> int:
    """Threads of one scan of a large catalogue in each process that runs models."""
    n_processes = 1 if settings.engine_process else settings.workers
    return settings.scan_threads or max(1, n_cores() // n_processes)


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
