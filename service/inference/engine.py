"""The engine: one thread that runs models, and a queue in front of it that knows about deadlines.

`Engine` is what the online path asks, and what it is asked could cross a socket. `LocalEngine` runs the models here.

The batcher conserves work: whenever the thread is free it takes what is waiting, at once and without a timer. Under
load batches form by themselves; an idle engine adds no delay. A run is never cancelled: whoever waits may stop waiting.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from service.deadline import Deadline
from service.errors import DeadlineExceeded, ModelFailed, Overloaded
from service.metrics import Metrics

Operation = Literal["recommend", "similar"]
ResultRows = list[tuple[NDArray[np.int64], NDArray[np.float32]]]

# Weight of the newest run in the estimate of how long a run takes: about the last ten count.
_NEWEST = 0.2


@dataclass(frozen=True, slots=True)
class Ranked:
    """Best first: item indices and scores, and how long they waited and took."""

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    queue_ms: float
    infer_ms: float


class Model(Protocol):
    """A model as an engine sees it."""

    @property
    def label(self) -> str:
        """name@version: means the same in every process."""

    def search(
        self, operation: Operation, rows: Sequence[Sequence[int]], k: int, excluded: Sequence[NDArray[np.int64]]
    ) -> ResultRows:
        """Per row of item indices at most k items and scores, best first, without the row's excluded indices."""


class Engine(Protocol):
    """Answers for models, wherever they run. Used from one event loop."""

    def start(self) -> None:
        """Call from the event loop that will ask, before the first `run`."""

    def stop(self) -> None:
        """No further runs; one in progress may end first."""

    async def run(
        self,
        model: Model,
        operation: Operation,
        row: Sequence[int],
        k: int,
        excluded: NDArray[np.int64],
        deadline: Deadline,
        *,
        bulk: bool = False,
    ) -> Ranked:
        """What the model says of `row`: history or seeds, item indices, at least one of them the model's.

        A caller that is cancelled leaves the queue.

        Raises:
            Overloaded: the queue is full, or its predicted wait does not fit the deadline. Raised at once.
            DeadlineExceeded: the deadline passed while waiting.
            ModelFailed: the model raised; its exception is the cause.
        """

    @property
    def n_waiting(self) -> int:
        """Rows in the queue."""


@dataclass(slots=True)
class _Job:
    model: Model
    operation: Operation
    row: Sequence[int]
    k: int
    excluded: NDArray[np.int64]
    deadline: Deadline
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
        self._waiting: deque[_Job] = deque()
        self._bulk: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._running = False
        self._stopping = False
        self._run_s = 0.0  # moving estimate of one run
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread. Call from the event loop that will ask."""
        loop = asyncio.get_running_loop()
        # A daemon: a run that hangs in native code must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, args=(loop,), name="engine", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends the thread after the run in progress."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)

    async def run(
        self,
        model: Model,
        operation: Operation,
        row: Sequence[int],
        k: int,
        excluded: NDArray[np.int64],
        deadline: Deadline,
        *,
        bulk: bool = False,
    ) -> Ranked:
        """See `Engine.run`. Computed together with whoever asks the same of the same model."""
        answer: asyncio.Future[Ranked] = asyncio.get_running_loop().create_future()
        with self._changed:
            self._admit(deadline, bulk)
            queue = self._bulk if bulk else self._waiting
            queue.append(_Job(model, operation, row, k, excluded, deadline, self._clock(), answer))
            self._changed.notify()
        try:
            await asyncio.wait((answer,), timeout=deadline.left_s)
            if answer.done():
                return answer.result()
        finally:
            answer.cancel()  # nobody listens any more; the run, if it has begun, goes on
        self._metrics.deadline_exceeded.labels("infer").inc()
        raise DeadlineExceeded("The budget ended while the model was asked.")

    @property
    def n_waiting(self) -> int:
        """Rows in the queue."""
        return len(self._waiting) + len(self._bulk)

    def predicted_wait_s(self, *, bulk: bool = False) -> float:
        """Seconds until a request that came now would have its answer, as far as recent runs tell."""
        ahead = len(self._waiting) + (len(self._bulk) if bulk else 0)
        return (ahead // self._max_batch + self._running + 1) * self._run_s

    def _admit(self, deadline: Deadline, bulk: bool) -> None:
        if deadline.spent:
            self._metrics.deadline_exceeded.labels("queue").inc()
            raise DeadlineExceeded("The budget ended before the model was asked.")
        # Each kind has its own bound: however much bulk work waits, it keeps nobody else out.
        if len(self._bulk if bulk else self._waiting) >= self._max_waiting:
            self._refuse("queue_full")
        # An idle engine always takes the request: only a run can correct an estimate that has become too high.
        if (self.n_waiting or self._running) and self.predicted_wait_s(bulk=bulk) > deadline.left_s:
            self._refuse("predicted_wait")

    def _refuse(self, reason: str) -> None:
        self._metrics.shed.labels(reason).inc()
        raise Overloaded("More requests are waiting than the budget allows for.", retry_after_s=1)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._bulk or self._stopping):
                    self._changed.wait()
                if self._stopping:
                    return
                late, batch = self._take()
                self._running = bool(batch)
            answers: list[Ranked | Exception] = self._score(batch) if batch else []
            self._running = False  # before anybody hears of the end
            try:
                loop.call_soon_threadsafe(_deliver, late, batch, answers)
            except RuntimeError:  # the loop has closed; nobody waits any more
                return

    def _take(self) -> tuple[list[_Job], list[_Job]]:
        """Jobs that are too late, and up to `max_batch` that ask what the first one asks. The rest keeps its order."""
        late: list[_Job] = []
        batch: list[_Job] = []
        for queue in (self._waiting, self._bulk):
            others: list[_Job] = []
            while queue and len(batch) < self._max_batch:
                job = queue.popleft()
                if job.answer.cancelled() or job.deadline.spent:
                    late.append(job)
                elif not batch or (job.model is batch[0].model and job.operation == batch[0].operation):
                    batch.append(job)
                else:
                    others.append(job)
            queue.extendleft(reversed(others))
        return late, batch

    def _score(self, batch: list[_Job]) -> list[Ranked | Exception]:
        started = self._clock()
        try:
            found = batch[0].model.search(
                batch[0].operation,
                [job.row for job in batch],
                max(job.k for job in batch),
                [job.excluded for job in batch],
            )
        except Exception as error:  # whatever a model raises belongs to its requests, not to the thread
            return [_failure(error) for _ in batch]
        took = self._clock() - started
        self._run_s += _NEWEST * (took - self._run_s) if self._run_s else took
        self._metrics.engine_batch.observe(len(batch))
        answers: list[Ranked | Exception] = []
        for job, (items, scores) in zip(batch, found, strict=True):
            self._metrics.queue_wait.observe(started - job.asked_at)
            answers.append(Ranked(items[: job.k], scores[: job.k], (started - job.asked_at) * 1000, took * 1000))
        return answers


def _failure(cause: Exception) -> ModelFailed:
    failure = ModelFailed("The model failed on this request or on one it was batched with.")
    failure.__cause__ = cause
    return failure


def _deliver(late: list[_Job], batch: list[_Job], answers: list[Ranked | Exception]) -> None:
    """Runs in the event loop, once per batch."""
    for job in late:
        if not job.answer.done():
            job.answer.set_exception(DeadlineExceeded("The budget ended in the queue."))
    for job, answer in zip(batch, answers, strict=True):
        if job.answer.done():
            continue
        if isinstance(answer, Exception):
            job.answer.set_exception(answer)
        else:
            job.answer.set_result(answer)
