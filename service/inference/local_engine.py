"""`Engine` in this process: one thread that runs models, and a queue in front of it that knows about deadlines.

Whenever the thread is free it takes what is waiting. Under load batches form by themselves; an idle engine adds no
delay, and a busy one waits only for callers that it has just answered, where they come back at once (`Patience`). A run
cannot be cancelled, so a budget is kept before it: a request is admitted when the predicted wait and the predicted run
fit into what is left of its budget, a batch holds no more rows than its tightest budget bears, and who has gone or is
too late meanwhile is not scored.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service.deadline import Deadline
from service.errors import DeadlineExceeded, ModelFailed, Overloaded
from service.inference.engine import Model, Operation, Ranked, Row
from service.inference.pace import Pace
from service.inference.patience import Patience
from service.metrics import Metrics
from service.timeouts import Timeouts

# A run may take this share of a budget: the rest is for the run before it, the state and the reply.
_SHARE_OF_BUDGET = 1 / 3
# The wait for runs ahead is reckoned as so many times what is predicted.
_RESERVE = 2
# Weight of the newest in moving averages: a bad moment is forgotten after some ten runs.
_NEWEST = 0.2
# A run of bulk work alone may keep others waiting for this long.
_BULK_S = 0.03
# An estimate that says no is tested by a request after this long without a run: only a run can correct it.
_DOUBT_AFTER_S = 0.01
# Python's own 5 ms is what the engine would wait for the interpreter, after every run, while the event loop is busy.
_SWITCH_INTERVAL_S = 0.0001
_NEVER = sys.maxsize
# How runs are timed before the first request: often enough that a cold first one does not count.
_WARM_RUNS, _WARM_LENGTH, _WARM_K = 3, 200, 20


@dataclass(slots=True, eq=False)
class _Job:
    model: Model
    operation: Operation
    row: Row
    k: int
    excluded: NDArray[np.int64]
    deadline: Deadline
    run_limit_s: float
    asked_at: float
    answer: asyncio.Future[Ranked] = field(repr=False)


class LocalEngine:
    """`Engine` in this process. Runs in batches, in order of arrival; bulk work only fills what is left of a batch.

    Args:
        max_batch: most rows of one run.
        max_waiting: most rows in the queue, and most rows of bulk work.
    """

    def __init__(
        self, metrics: Metrics, *, max_batch: int, max_waiting: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._metrics = metrics
        self._max_batch, self._max_waiting = max_batch, max_waiting
        self._clock = clock
        # Appended to by the event loop, taken from by the thread; a deque needs no lock for that.
        self._waiting: deque[_Job] = deque()
        self._bulk: deque[_Job] = deque()
        self._paces: dict[tuple[str, Operation], Pace] = {}
        self._alarm: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._delivery_s = 0.0  # from the end of a run until the event loop hears of it: a moving average
        self._rings_at = _NEVER  # rows in the queue that wake the thread
        self._patience = Patience()
        self._stopping = False
        self._run_began_at: float | None = None
        self._run_ends_at: float | None = None  # of the run in progress, as predicted
        self._last_run_at = -_DOUBT_AFTER_S
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timeouts: Timeouts | None = None
        self._thread: threading.Thread | None = None

    def warm(self, models: Iterable[Model]) -> None:
        """Runs every size of batch once before the first request needs it, the largest first, and notes how long.

        The largest first, because ONNX Runtime's memory arena grows to each new size and never shrinks.
        """
        none: NDArray[np.int64] = np.empty(0, np.int64)
        for model in models:
            sizes: list[tuple[Operation, list[int], int]] = [("similar", [1], 1)]
            n_rows = self._max_batch
            while n_rows:
                sizes.insert(-1, ("recommend", [1] * _WARM_LENGTH, n_rows))
                n_rows //= 2
            for operation, row, n_rows in sizes:
                took = []
                for _ in range(_WARM_RUNS):
                    started = self._clock()
                    model.search(operation, [row] * n_rows, _WARM_K, [none] * n_rows)
                    took.append(self._clock() - started)
                # The fastest: the first is cold, and too high an estimate is corrected later than too low a one.
                self._pace(model, operation).note(n_rows, min(took))

    def start(self) -> None:
        """Starts the thread. Call from the event loop that will ask."""
        self._loop = asyncio.get_running_loop()
        self._timeouts = Timeouts(self._loop)
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        # A daemon: a run that hangs in native code must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, args=(self._loop,), name="engine", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends the thread after the run in progress."""
        self._stopping = True
        self._alarm.put(None)
        if self._thread is not None:
            self._thread.join(timeout_s)

    async def run(
        self,
        model: Model,
        operation: Operation,
        row: Row,
        k: int,
        excluded: NDArray[np.int64],
        deadline: Deadline,
        *,
        bulk: bool = False,
    ) -> Ranked:
        """See `Engine.run`. Computed together with whoever asks the same of the same model."""
        assert self._loop is not None, "start comes first"
        assert self._timeouts is not None
        run_limit_s = deadline.granted_ms / 1000 * _SHARE_OF_BUDGET
        if bulk:
            run_limit_s = min(run_limit_s, _BULK_S)
        self._admit(self._pace(model, operation), run_limit_s, deadline, bulk)
        answer: asyncio.Future[Ranked] = self._loop.create_future()
        asked_at = self._clock()
        job = _Job(model, operation, row, k, excluded, deadline, run_limit_s, asked_at, answer)
        (self._bulk if bulk else self._waiting).append(job)
        self._patience.asked(asked_at)
        if self.n_waiting >= self._rings_at:
            # Once for all that ask in this tick of the loop.
            self._rings_at = _NEVER
            self._loop.call_soon(self._alarm.put, None)
        self._timeouts.add(deadline.left_s, answer, partial(self._give_up, job))
        return await answer  # a caller that is cancelled cancels this too, and so leaves the queue

    @property
    def n_waiting(self) -> int:
        """Rows in the queue."""
        return len(self._waiting) + len(self._bulk)

    @property
    def run_s(self) -> float:
        """Seconds that the run in progress has taken so far; 0 between runs."""
        began_at = self._run_began_at
        return 0.0 if began_at is None else self._clock() - began_at

    def _fits(self, pace: Pace, run_limit_s: float, left_s: float, bulk: bool) -> bool:
        """Whether a request that came now would have its answer in time, as far as recent runs tell.

        Runs that have not begun count double: a wait is a sum of guesses. And a queue that fills whole budgets makes
        everybody a little late under load that lasts, while a short one keeps the engine as busy.
        """
        ahead = len(self._waiting) + (len(self._bulk) if bulk else 0)
        rows = pace.rows_within(run_limit_s)
        full_runs, others = divmod(ahead, rows)
        ends_at = self._run_ends_at
        in_progress = 0.0 if ends_at is None else max(0.0, ends_at - self._clock())
        wait = in_progress + _RESERVE * full_runs * pace.of(rows)
        return wait + pace.of(others + 1) + self._delivery_s <= left_s

    def _admit(self, pace: Pace, run_limit_s: float, deadline: Deadline, bulk: bool) -> None:
        left_s = deadline.left_s
        if left_s <= 0:
            self._metrics.deadline_exceeded.labels("queue").inc()
            raise DeadlineExceeded("The budget ended before the model was asked.")
        # Each kind has its own bound: however much bulk work waits, it keeps nobody else out.
        if len(self._bulk if bulk else self._waiting) >= self._max_waiting:
            self._refuse("queue_full")
        if not self._fits(pace, run_limit_s, left_s, bulk) and not self._doubtful():
            self._refuse("predicted_wait")

    def _doubtful(self) -> bool:
        """Whether the estimates are old and nothing is under way that would renew them."""
        idle = self._run_ends_at is None and not self.n_waiting
        return idle and self._clock() - self._last_run_at >= _DOUBT_AFTER_S

    def _refuse(self, reason: str) -> None:
        self._metrics.shed.labels(reason).inc()
        raise Overloaded("More requests are waiting than the budget allows for.", retry_after_s=1)

    def _give_up(self, job: _Job) -> None:
        """The deadline has come; the run, if it has begun, goes on."""
        if not job.deadline.spent:  # timers are coarser than the clock, and may follow another one
            assert self._timeouts is not None
            self._timeouts.add(max(job.deadline.left_s, 0.001), job.answer, partial(self._give_up, job))
            return
        self._metrics.deadline_exceeded.labels("infer").inc()
        job.answer.set_exception(DeadlineExceeded("The budget ended while the model was asked."))

    def _pace(self, model: Model, operation: Operation) -> Pace:
        key = model.label, operation
        pace = self._paces.get(key)
        if pace is None:
            pace = self._paces[key] = Pace(self._max_batch)
        return pace

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stopping:
            late, batch = self._take()
            if not (late or batch):
                self._sleep_until(1)
                continue
            began_at = self._clock()
            answers: list[Ranked | Exception] = self._score(batch, began_at) if batch else []
            ended_at = self._clock()
            # Before anybody hears of the end.
            wait_s = self._patience.ended(ended_at, ended_at - began_at, self.n_waiting) if batch else 0.0
            everybody = self._everybody(batch) if wait_s else 0
            self._run_began_at, self._run_ends_at = None, ended_at + wait_s if wait_s else None
            try:
                loop.call_soon_threadsafe(self._deliver, ended_at, late, batch, answers)
            except RuntimeError:  # the loop has closed; nobody waits any more
                return
            if wait_s:
                self._sleep_until(everybody, wait_s)
                self._run_ends_at = None

    def _everybody(self, batch: list[_Job]) -> int:
        """Rows that wait once all of these have asked again, up to those of one run."""
        pace = self._pace(batch[0].model, batch[0].operation)
        return min(self.n_waiting + len(batch), pace.rows_within(batch[0].run_limit_s))

    def _sleep_until(self, rows: int, longest_s: float | None = None) -> None:
        """Until so many rows wait."""
        self._rings_at = rows
        if self.n_waiting < rows:  # else they came between the look and the nap
            with contextlib.suppress(queue.Empty):
                self._alarm.get(timeout=longest_s)
        self._rings_at = _NEVER

    def _take(self) -> tuple[list[_Job], list[_Job]]:
        """Jobs that are too late, and those of the next run: all ask what the first one asks. The rest stays in order.

        No more rows than the tightest budget among them bears. Jobs that nobody waits for any more are dropped. Who
        would be too late at the end of that run counts as late already: a run that is short enough for the last moments
        of one budget is so small that everybody behind it comes to their last moments as well.
        """
        late: list[_Job] = []
        batch: list[_Job] = []
        limit = self._max_batch
        for waiting in (self._waiting, self._bulk):
            others: list[_Job] = []
            while waiting and len(batch) < limit:
                job = waiting.popleft()
                if job.answer.done():
                    continue
                if job.deadline.spent:
                    late.append(job)
                    continue
                if batch and not (job.model is batch[0].model and job.operation == batch[0].operation):
                    others.append(job)
                    continue
                limit = min(limit, self._pace(job.model, job.operation).rows_within(job.run_limit_s))
                (batch if len(batch) < max(limit, 1) else others).append(job)
            waiting.extendleft(reversed(others))
        return (late, batch) if not batch else self._without_hopeless(late, batch)

    def _without_hopeless(self, late: list[_Job], batch: list[_Job]) -> tuple[list[_Job], list[_Job]]:
        ends_s = self._pace(batch[0].model, batch[0].operation).of(len(batch)) + self._delivery_s
        in_time = [job for job in batch if job.deadline.left_s >= ends_s]
        if len(in_time) == len(batch):
            return late, batch
        if not in_time:  # by estimates that only a run can correct
            in_time = [max(batch, key=lambda job: job.deadline.left_s)]
        return late + [job for job in batch if job not in in_time], in_time

    def _score(self, batch: list[_Job], started: float) -> list[Ranked | Exception]:
        model, operation = batch[0].model, batch[0].operation
        pace = self._pace(model, operation)
        fallbacks = model.top_k_fallbacks
        self._run_began_at = started
        self._run_ends_at = started + pace.of(len(batch))
        try:
            found = model.search(
                operation,
                [job.row for job in batch],
                max([job.k for job in batch]),
                [job.excluded for job in batch],
            )
        except Exception as error:  # whatever a model raises belongs to its requests, not to the thread
            return [_failure(error) for _ in batch]
        self._last_run_at = self._clock()
        took = self._last_run_at - started
        pace.note(len(batch), took)
        self._metrics.engine_batch.observe(len(batch))
        if model.top_k_fallbacks > fallbacks:
            self._metrics.top_k_fallbacks.labels(*model.label.split("@")).inc(model.top_k_fallbacks - fallbacks)
        answers: list[Ranked | Exception] = []
        for job, (items, scores, *reading) in zip(batch, found, strict=True):
            waited = started - job.asked_at
            self._metrics.queue_wait.observe(waited)
            answers.append(Ranked(items[: job.k], scores[: job.k], waited * 1000, took * 1000, *reading))
        return answers

    def _deliver(self, ended_at: float, late: list[_Job], batch: list[_Job], answers: list[Ranked | Exception]) -> None:
        """Runs in the event loop, once per batch."""
        self._delivery_s += _NEWEST * (self._clock() - ended_at - self._delivery_s)
        self._metrics.fold_soon()
        for job in late:
            if not job.answer.done():
                self._metrics.deadline_exceeded.labels("queue").inc()
                job.answer.set_exception(DeadlineExceeded("The budget ended in the queue."))
        for job, answer in zip(batch, answers, strict=True):
            if job.answer.done():
                continue
            if isinstance(answer, Exception):
                job.answer.set_exception(answer)
            else:
                job.answer.set_result(answer)


def _failure(cause: Exception) -> ModelFailed:
    failure = ModelFailed("The model failed on this request or on one it was batched with.")
    failure.__cause__ = cause
    return failure
