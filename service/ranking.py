"""The second stage: candidates in the order of a scenario's ranker, the caller's or a retriever's.

A user's `z` is the one that an LLM told where there is one and nobody deleted the user since the artefact was built; in
any other case, an unreachable store included, the graph predicts it from behaviour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.ask import RankAsk
from service.behaviour import Behaviour
from service.deadline import Deadline
from service.errors import (
    ModelFailed,
    NotFound,
    RequestError,
    StoreUnavailable,
    crowded_loop,
)
from service.inference.engine import Engine
from service.inference.ranker import RankRow
from service.logs import Logger, describe, new_id
from service.metrics import Metrics
from service.registry import RankerChoice, Registry, Scenario
from service.state_reader import StateReader

UserZ = Literal["told", "predicted", "none"]


@dataclass(frozen=True, slots=True)
class Ordered:
    """Places of candidates, best first, and chances of a click; those the ranker does not know come last, without."""

    places: NDArray[np.int64]
    scores: list[float | None]
    user_z: UserZ
    queue_ms: float = 0.0
    infer_ms: float = 0.0

    @property
    def n_unranked(self) -> int:
        return self.scores.count(None)


@dataclass(slots=True)
class RankAnswer:
    """One answer in the making, and afterwards the record of how it was made."""

    scenario: Scenario
    choice: RankerChoice
    deadline: Deadline
    candidates: Sequence[str]
    never_degrade: bool = False
    tier: Literal["model", "retrieved"] = "model"
    behaviour: Behaviour = field(default_factory=lambda: Behaviour("none"))
    ordered: Ordered | None = None
    reasons: list[str] = field(default_factory=list)
    degraded: bool = False
    stage_ms: dict[str, float] = field(default_factory=dict)
    recommendation_id: str = field(default_factory=new_id)

    def step_down(self, fault: RequestError) -> None:
        """Notes what is out of reach; raises instead where the caller forbade less."""
        if self.never_degrade:
            raise fault
        self.degraded = True
        self.reasons.append(fault.code)


class RankPath:
    """Ranks for one registry of scenarios. Holds no state of a request."""

    def __init__(self, registry: Registry, state: StateReader, engine: Engine, metrics: Metrics, log: Logger) -> None:
        self._registry, self._state, self._engine = registry, state, engine
        self._metrics, self._log = metrics, log

    async def rank(self, ask: RankAsk, deadline: Deadline, *, bulk: bool = False, crowded: bool = False) -> RankAnswer:
        """The caller's candidates for what the asker did so far; in the order given where time is too short.

        That is so for every question to a crowded event loop.

        Raises:
            NotFound: the scenario is unknown, or has no ranker.
            RequestError: with `degrade` never, why the ranker is out of reach.
        """
        scenario = self._registry.scenario(ask.scenario)
        if scenario.ranker is None:
            raise NotFound("The scenario has no ranker; GET /v1/models lists those that do.", code="no_ranker")
        answer = RankAnswer(scenario, scenario.ranker, deadline, ask.candidates, ask.never_degrade)
        artefact = answer.choice.ranker.artefact
        try:
            if crowded:
                raise crowded_loop()
            answer.behaviour = await self._state.behaviour(ask, artefact, answer)
            candidates = np.array([artefact.index_of.get(item_id, 0) for item_id in ask.candidates], dtype=np.int64)
            answer.ordered = await self.order(
                answer.choice, ask.user_id, answer.behaviour.items, candidates, deadline, bulk=bulk
            )
        except RequestError as fault:
            answer.tier = "retrieved"
            answer.step_down(fault)
        else:
            answer.stage_ms |= {"queue": answer.ordered.queue_ms, "infer": answer.ordered.infer_ms}
        answer.stage_ms["total"] = deadline.elapsed_ms
        self._metrics.ranked(answer)
        return answer

    async def order(
        self,
        choice: RankerChoice,
        user_id: str | None,
        history: Sequence[int],
        candidates: NDArray[np.int64],
        deadline: Deadline,
        *,
        bulk: bool = False,
    ) -> Ordered:
        """How the ranker orders candidates, given as its own item indices, 0 for one that it does not know.

        Raises:
            DeadlineExceeded, Overloaded, ModelFailed: the ranker is out of reach.
        """
        z = await self._z_of(choice, user_id, deadline)
        user_z: UserZ = "none" if not choice.ranker.manifest.ranker.z_size else "predicted" if z is None else "told"
        known, unknown = np.flatnonzero(candidates), np.flatnonzero(candidates == 0)
        if not len(known):
            return Ordered(unknown, [None] * len(unknown), user_z)
        longest = choice.ranker.manifest.ranker.max_seq_len
        row = RankRow(history[-longest:], choice.scenario_index, candidates[known].tolist(), z)
        nothing = np.empty(0, np.int64)
        try:
            found = await self._engine.run(choice.ranker, "rank", row, len(known), nothing, deadline, bulk=bulk)
            if not np.isfinite(found.scores).all():
                raise ModelFailed("The ranker gave scores that are not numbers.")
        except ModelFailed as fault:
            self._log.error("model_failed", model=choice.ranker.name, **describe(fault.__cause__ or fault))
            raise
        chances = 1 / (1 + np.exp(-found.scores.astype(np.float64)))
        places = np.concatenate([known[found.items], unknown])
        scores: list[float | None] = [*chances.tolist(), *[None] * len(unknown)]
        return Ordered(places, scores, user_z, found.queue_ms, found.infer_ms)

    async def _z_of(self, choice: RankerChoice, user_id: str | None, deadline: Deadline) -> NDArray[np.float32] | None:
        """The user's z, unless the user was deleted after it was made, or that cannot be found out in time."""
        z = choice.ranker.told_z(user_id)
        if z is None or user_id is None or deadline.spent:
            return None
        try:
            deleted_at = await self._state.deleted_at(user_id, deadline)
        except StoreUnavailable:
            return None
        return z if deleted_at is None or deleted_at < choice.ranker.manifest.created_at.timestamp() else None
