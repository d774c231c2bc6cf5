"""An asker's stored history within a budget: a store that does not answer is a step down, never a wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from service.ask import Ask, RankAsk
from service.behaviour import AnyArtefact, Behaviour, Source, behaviour_from_request, behaviour_from_store
from service.deadline import Deadline
from service.errors import DeadlineExceeded, RequestError, StateUnavailable, StoreUnavailable
from service.metrics import Metrics
from service.state.store import StateStore


class InTheMaking(Protocol):
    """An answer that notes what was out of reach."""

    deadline: Deadline
    degraded: bool
    stage_ms: dict[str, float]

    def step_down(self, fault: RequestError) -> None:
        """Notes the fault; raises it instead where the caller forbade less."""
        ...


class StateReader:
    """Reads one store, within `timeout_s` of it and within the budget. `source` is what replies call it."""

    def __init__(
        self,
        store: StateStore,
        metrics: Metrics,
        *,
        source: Source,
        timeout_s: float,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._metrics = store, metrics
        self._source, self._timeout_s, self._wall_clock = source, timeout_s, wall_clock

    async def behaviour(self, ask: Ask | RankAsk, artefact: AnyArtefact, answer: InTheMaking) -> Behaviour:
        """The history of the request, or else the stored one in one round trip; "none" after a step down.

        An answer that is degraded already reads nothing.

        Raises:
            RequestError: why nothing was read, where the answer may not step down.
        """
        if ask.history is not None:
            return behaviour_from_request(ask.history, artefact, self._wall_clock())
        if answer.degraded or (ask.user_id is None and ask.session_id is None):
            return Behaviour("none")
        started = answer.deadline.clock()
        try:
            if answer.deadline.spent:
                self._metrics.deadline_exceeded.labels("state").inc()
                raise DeadlineExceeded("The budget ended before the state was read.")
            timeout_s = min(self._timeout_s, answer.deadline.left_s)
            user, session = await self._store.recall(ask.user_id, ask.session_id, timeout_s=timeout_s)
            return behaviour_from_store(user, session, artefact, self._source)
        except StoreUnavailable:
            self._metrics.redis_errors.labels("read").inc()
            answer.step_down(StateUnavailable("The state store did not answer.", retry_after_s=1))
        except DeadlineExceeded as late:
            answer.step_down(late)
        finally:
            answer.stage_ms["state"] = (answer.deadline.clock() - started) * 1000
        return Behaviour("none")

    async def deleted_at(self, user_id: str, deadline: Deadline) -> float | None:
        """When the user was last deleted, as `StateStore.deleted_at`.

        Raises:
            StoreUnavailable: that cannot be found out in time; it is counted.
        """
        try:
            return await self._store.deleted_at(user_id, timeout_s=min(self._timeout_s, deadline.left_s))
        except StoreUnavailable:
            self._metrics.redis_errors.labels("read").inc()
            raise
