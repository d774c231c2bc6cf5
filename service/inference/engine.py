"""What the online path asks of an engine, and what an engine asks of a model. It could all cross a socket.

`LocalEngine` (`local_engine.py`) runs models in this process, `RemoteEngine` (`remote_engine.py`) in another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from service.deadline import Deadline
from service.inference.ranker import RankRow
from service.inference.reading import Reading

# `explain` is `recommend` that also tells what the encoder made of the history. `rank` is for rankers, whose rows are
# RankRows and whose items are places of candidates.
Operation = Literal["recommend", "similar", "explain", "rank"]
Row = Sequence[int] | RankRow
Best = tuple[NDArray[np.int64], NDArray[np.float32]]
ResultRows = Sequence[Best | tuple[NDArray[np.int64], NDArray[np.float32], Reading]]


@dataclass(slots=True)
class Ranked:
    """Best first: item indices and scores, how long they waited and took, and of `explain` what was read."""

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    queue_ms: float
    infer_ms: float
    reading: Reading | None = None


class Model(Protocol):
    """A model as an engine sees it."""

    @property
    def label(self) -> str:
        """name@version: means the same in every process."""

    @property
    def top_k_fallbacks(self) -> int:
        """Answers so far that its top-k backend left to a slower one."""

    def search(
        self, operation: Operation, rows: Sequence[Any], k: int, excluded: Sequence[NDArray[np.int64]]
    ) -> ResultRows:
        """Per row of item indices at most k items and scores, best first, without the row's excluded indices.

        Asked to `explain`, each row also has its `Reading`.
        """


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
        row: Row,
        k: int,
        excluded: NDArray[np.int64],
        deadline: Deadline,
        *,
        bulk: bool = False,
    ) -> Ranked:
        """What the model says of `row`: item indices of the model, a history (which may be empty) or seeds.

        A caller that is cancelled leaves the queue.

        Raises:
            Overloaded: the queue is full, or its predicted wait does not fit the deadline. Raised at once.
            DeadlineExceeded: the deadline passed while waiting.
            ModelFailed: the model raised; its exception is the cause.
        """

    @property
    def n_waiting(self) -> int:
        """Rows in the queue."""
