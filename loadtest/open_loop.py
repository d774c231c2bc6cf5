"""Load at a fixed arrival rate: requests leave on schedule whether or not earlier ones were answered.

A closed loop (a user waits for the reply, then asks again) slows down together with the service and so leaves out
the very requests that would have been slow. Here every latency counts from the *planned* moment of sending.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import asdict, dataclass
from time import perf_counter, process_time
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from loadtest.client import Client, NoReply
from loadtest.errors import InputError
from loadtest.progress import progress, sleep_unless
from loadtest.recorder import Recorder, Reply, reply_of
from loadtest.traffic import Call

Arrivals = Literal["poisson", "constant"]

# The generator counts as honest while it starts 99 % of its requests within this of the plan.
MAX_START_GAP_P99_MS = 5.0


@dataclass(frozen=True)
class OpenLoop:
    """One run: `rate_per_s` arrivals for `duration_s`, of which the first `warmup_s` are sent but not judged."""

    rate_per_s: float
    duration_s: float
    warmup_s: float = 2.0
    arrivals: Arrivals = "poisson"
    seed: int = 7
    budget_ms: float = 100.0  # sent as the deadline header, and the limit for goodput
    timeout_s: float = 5.0  # after it a request counts as an error, sent or not

    def __post_init__(self) -> None:
        if self.rate_per_s <= 0 or self.duration_s <= 0 or not 0 <= self.warmup_s < self.duration_s:
            raise InputError(
                f"rate {self.rate_per_s}/s, duration {self.duration_s} s, warm-up {self.warmup_s} s: "
                "expected a positive rate and duration, and a warm-up shorter than the duration"
            )
        if self.budget_ms < 1 or self.timeout_s <= 0:
            raise InputError(
                f"budget {self.budget_ms} ms, timeout {self.timeout_s} s: expected at least 1 ms and > 0 s"
            )
        if self.arrivals not in ("poisson", "constant"):
            raise InputError(f"arrivals is {self.arrivals!r}; expected 'poisson' or 'constant'")

    def schedule(self) -> NDArray[np.float64]:
        """Planned seconds of sending, ascending, within [0, duration_s)."""
        if self.arrivals == "constant":
            return np.arange(round(self.rate_per_s * self.duration_s)) / self.rate_per_s
        rng = np.random.default_rng(self.seed)
        # A Poisson process seen over a fixed time: a Poisson number of uniformly placed arrivals.
        n = int(rng.poisson(self.rate_per_s * self.duration_s))
        return np.sort(rng.uniform(0.0, self.duration_s, n))

    def describe(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Run:
    """What an open loop recorded; `sent_until_s` is shorter than planned where it was stopped."""

    recorder: Recorder
    plan: OpenLoop
    sent_until_s: float = 0.0
    generator_cpu_share: float = 0.0

    def findings(self) -> dict[str, Any]:
        """Figures of the judged part as JSON: all requests, per kind, per second, and the generator's self-check."""
        from_s, until_s = min(self.plan.warmup_s, self.sent_until_s), self.sent_until_s
        start_gap_ms = self.recorder.view(from_s=from_s, until_s=until_s).start_gap_ms
        gap_p99_ms = round(float(np.percentile(start_gap_ms, 99, method="higher")), 4) if len(start_gap_ms) else None
        generator = {
            "start_gap_p99_ms": gap_p99_ms,
            "kept_schedule": gap_p99_ms is None or gap_p99_ms <= MAX_START_GAP_P99_MS,
            "cpu_share_of_a_core": round(self.generator_cpu_share, 3),
        }
        return self.recorder.findings(from_s, until_s, self.plan.budget_ms) | {"generator": generator}


async def run_open_loop(
    client: Client,
    calls: Iterator[Call],
    plan: OpenLoop,
    *,
    stop: asyncio.Event,
    on_reply: Callable[[Call, Reply, float], None] | None = None,
    beside: Callable[[Callable[[], float]], Coroutine[Any, Any, None]] | None = None,
    title: str = "open loop",
) -> Run:
    """Sends `calls` on the plan's schedule and returns when the last reply is in or timed out.

    Args:
        stop: set it to send nothing more; the replies outstanding are still awaited.
        on_reply: told each call, its reply and the seconds since the start.
        beside: runs along with the load and is given its clock; its error ends the run and is raised here. It is
            cancelled with the last planned request, but after a stop it may end by itself.
    """
    run = Run(Recorder(), plan)
    headers = f"X-Request-Timeout-Ms: {plan.budget_ms:.0f}\r\n"
    # The objects of start-up are not looked through again: a full collection would delay the requests due in it.
    gc.collect()
    gc.freeze()
    cpu_s, start_s = process_time(), perf_counter()

    async def fire(call: Call, planned_s: float) -> None:
        started_s = perf_counter() - start_s
        timeout_s = plan.timeout_s - (started_s - planned_s)
        outcome: Any
        try:
            outcome = await client.request("POST", call.path, call.body, headers=headers, timeout_s=timeout_s)
            sent_s, done_s = outcome.sent_s - start_s, outcome.done_s - start_s
        except NoReply as failure:
            outcome = failure
            sent_s, done_s = None if failure.sent_s is None else failure.sent_s - start_s, perf_counter() - start_s
        reply = reply_of(call.kind, outcome)
        run.recorder.add(call.kind, planned_s=planned_s, started_s=started_s, sent_s=sent_s, done_s=done_s, reply=reply)
        if on_reply is not None:
            on_reply(call, reply, done_s)

    async def send_all() -> None:
        async with asyncio.TaskGroup() as tasks:
            companion = tasks.create_task(beside(lambda: perf_counter() - start_s)) if beside is not None else None
            for n_sent, planned_s in enumerate(plan.schedule().tolist()):
                # Short naps, so that a stop and the bar do not wait for a rare arrival.
                while (wait_s := start_s + planned_s - perf_counter()) > 0 and not stop.is_set():
                    await asyncio.sleep(min(wait_s, 0.25))
                    update(perf_counter() - start_s, f"{n_sent - len(run.recorder)} in flight")
                if stop.is_set():
                    break
                tasks.create_task(fire(next(calls), planned_s))
                await asyncio.sleep(0)  # lets it start now
            await sleep_unless(stop, start_s + plan.duration_s - perf_counter())
            run.sent_until_s = min(perf_counter() - start_s, plan.duration_s)
            if companion is not None and not stop.is_set():
                companion.cancel()

    try:
        with progress(title, plan.duration_s) as update:
            await send_all()
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    finally:
        gc.unfreeze()
    run.generator_cpu_share = (process_time() - cpu_s) / (perf_counter() - start_s)
    return run
