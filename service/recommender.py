"""The online path: deadline -> state -> encode -> top-k -> rules -> reply, and the ladder below it.

    model     the scenario's first tier: the model read the history, and where the scenario has a ranker, that ordered
    retrieved as the retriever ordered them: there was no time left for the ranker, or it failed
    cache     the last list the model made for this user or session
    popular   the catalogue by training popularity
    static    the catalogue in its own order, where no popularity is known

A lower rung is taken on purpose, never by accident: each step down leaves its reason in the reply. Seen items, explicit
exclusions and availability hold on every rung.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.api.schemas import MAX_COUNT
from service.ask import Ask, SimilarAsk
from service.behaviour import Behaviour, Source
from service.deadline import Deadline
from service.errors import (
    DeadlineExceeded,
    ModelFailed,
    Overloaded,
    RequestError,
    crowded_loop,
)
from service.explainer import Explanation
from service.fallback import LastList, LastLists
from service.features.diversity import diversify, n_candidates
from service.inference.engine import Engine, Operation, Ranked
from service.inference.reading import IntentItems
from service.logs import Logger, describe, new_id
from service.metrics import Metrics
from service.ranking import Ordered, RankPath
from service.registry import Registry, Scenario
from service.served_model import ServedModel
from service.state.store import StateStore
from service.state_reader import StateReader

NOTHING: NDArray[np.int64] = np.empty(0, np.int64)


@dataclass(slots=True)
class Picked:
    """Items of one tier, best first, as indices of the model's item table."""

    tier: Literal["model", "retrieved", "cache", "popular", "static"]
    items: NDArray[np.int64]
    scores: Sequence[float | None]


@dataclass(slots=True)
class Answer:
    """One answer in the making, and afterwards the record of how it was made."""

    scenario: Scenario
    model: ServedModel
    deadline: Deadline
    never_degrade: bool = False
    explain: bool = False
    diversity: float = 0.0  # asked for
    behaviour: Behaviour = field(default_factory=lambda: Behaviour("none"))
    hidden: NDArray[np.int64] = field(default_factory=lambda: NOTHING)  # never in the reply: see `_rules`
    picked: Picked = field(default_factory=lambda: Picked("static", NOTHING, []))
    explanations: list[Explanation] | None = None  # of the picked items; lower tiers have none
    intents: IntentItems | None = None  # predicted from the history, where explained and the model predicts them
    reasons: list[str] = field(default_factory=list)
    degraded: bool = False
    ordered: Ordered | None = None  # by the scenario's ranker
    stage_ms: dict[str, float] = field(default_factory=dict)
    recommendation_id: str = field(default_factory=new_id)

    @property
    def history_used(self) -> int:
        """Items that the model read for this answer."""
        read = min(len(self.behaviour.items), self.model.manifest.encoder.max_seq_len)
        return read if self.picked.tier in ("model", "retrieved") else 0

    def step_down(self, fault: RequestError) -> None:
        """Notes why the tier that was due is out of reach; raises instead where the caller forbade lower ones."""
        if self.never_degrade:
            raise fault
        self.degraded = True
        self.reasons.append(fault.code)


class Recommender:
    """Answers for one registry of scenarios. Holds no state of a request."""

    def __init__(
        self,
        registry: Registry,
        store: StateStore,
        engine: Engine,
        last_lists: LastLists,
        metrics: Metrics,
        log: Logger,
        *,
        state_name: Source,
        state_timeout_s: float,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.registry = registry
        self._engine, self._last_lists = engine, last_lists
        self._metrics, self._log = metrics, log
        self._state = StateReader(store, metrics, source=state_name, timeout_s=state_timeout_s, wall_clock=wall_clock)
        self.ranking = RankPath(registry, self._state, engine, metrics, log)

    async def recommend(self, ask: Ask, deadline: Deadline, *, bulk: bool = False, crowded: bool = False) -> Answer:
        """Items for what the asker did so far; of a crowded event loop, from what this process knows itself.

        Raises:
            NotFound: the scenario or the model is unknown.
            RequestError: with `degrade` never, why the first tier is out of reach.
        """
        answer = self._begin(ask, deadline, crowded)
        scenario, model, count = answer.scenario, answer.model, ask.count or answer.scenario.count
        owners, n_drops = ask.owners, self._last_lists.n_drops
        owner = owners[0] if owners else None

        answer.behaviour = await self._state.behaviour(ask, model.artefact, answer)
        last = self._last_lists.get(owner, scenario.name, model.version) if owner else None
        answer.hidden = self._rules(ask, answer, last)

        picked = None
        if not answer.degraded and len(answer.behaviour.items) < model.manifest.encoder.minimum_history:
            answer.reasons.append("empty_history" if not answer.behaviour.items else "short_history")
        elif not answer.degraded:
            history = answer.behaviour.items[-model.manifest.encoder.max_seq_len :]
            # For the cache twice the count: it must still fill a list when some of it has been seen since.
            n_kept = min(2 * count, MAX_COUNT) if owner else count
            operation: Operation = "explain" if ask.explain or ask.diversity else "recommend"
            k = n_candidates(count) if ask.diversity else n_kept
            if scenario.ranker is not None:
                k = max(k, scenario.ranker.candidates)
            ranked = await self._ask_model(answer, operation, history, k, bulk)
            if ranked is not None:
                tier, ordered = await self._second_stage(ask, answer, ranked, bulk)
                picked = _from_model(ordered, count, answer, history, tier)
                # Not where somebody was forgotten meanwhile: it may have been this one.
                if owner and n_drops == self._last_lists.n_drops:
                    seen = _as_indices(answer.behaviour.seen)
                    last = LastList(ordered.items[:n_kept], ordered.scores[:n_kept], seen)
                    self._last_lists.put(owner, scenario.name, model.version, last)
        if picked is None and answer.degraded and last is not None:
            picked = _from_cache(last, count, answer.hidden)
        answer.picked = picked or _from_popular(model, count, answer.hidden)
        return self._finish(answer)

    async def similar(self, ask: SimilarAsk, deadline: Deadline, *, crowded: bool = False) -> Answer:
        """Items like the given ones; popular ones where the model knows none of them.

        Raises:
            NotFound, RequestError: as `recommend`.
        """
        answer = self._begin(ask, deadline, crowded)
        model, count = answer.model, ask.count or answer.scenario.count
        seeds = _indices(model, ask.item_ids)
        answer.behaviour = Behaviour("request", seeds, frozenset(seeds), len(ask.item_ids) - len(seeds))
        answer.hidden = _with_outside({*seeds, *_indices(model, ask.exclude)}, answer)
        ranked = None
        if not seeds:
            answer.reasons.append("unknown_items")
        elif not answer.degraded:
            ranked = await self._ask_model(answer, "similar", seeds, count, bulk=False)
        if ranked is not None:
            answer.picked = Picked("model", ranked.items, ranked.scores.tolist())
        else:
            answer.picked = _from_popular(model, count, answer.hidden)
        return self._finish(answer)

    async def _second_stage(
        self, ask: Ask, answer: Answer, ranked: Ranked, bulk: bool
    ) -> tuple[Literal["model", "retrieved"], Ranked]:
        """What was retrieved in the order of the scenario's ranker, or as it was where that is out of reach."""
        choice = answer.scenario.ranker
        if choice is None or answer.model is not answer.scenario.model:
            return "model", ranked
        read = choice.index_map[np.array(answer.behaviour.items, dtype=np.int64)]
        candidates = choice.index_map[ranked.items].astype(np.int64)
        try:
            ordered = await self.ranking.order(
                choice, ask.user_id, read[read > 0].tolist(), candidates, answer.deadline, bulk=bulk
            )
        except RequestError as fault:
            answer.step_down(fault)
            return "retrieved", ranked
        answer.ordered = ordered
        answer.stage_ms["rank"] = ordered.queue_ms + ordered.infer_ms
        # Those that the ranker does not know come last; a number is what diversity can weigh.
        scores = np.array([0.0 if score is None else score for score in ordered.scores], dtype=np.float32)
        return "model", replace(ranked, items=ranked.items[ordered.places], scores=scores)

    def _begin(self, ask: Ask | SimilarAsk, deadline: Deadline, crowded: bool) -> Answer:
        scenario = self.registry.scenario(ask.scenario)
        model = scenario.model if ask.model is None else self.registry.model(*ask.model)
        answer = Answer(scenario, model, deadline, never_degrade=ask.never_degrade)
        if isinstance(ask, Ask):
            answer.explain, answer.diversity = ask.explain, ask.diversity
        if crowded:
            answer.step_down(crowded_loop())
        return answer

    async def _ask_model(
        self, answer: Answer, operation: Operation, row: Sequence[int], k: int, bulk: bool
    ) -> Ranked | None:
        """Encode and score, in a batch with whoever else is waiting; None after a step down."""
        try:
            ranked = await self._engine.run(answer.model, operation, row, k, answer.hidden, answer.deadline, bulk=bulk)
            if not len(ranked.items) and len(answer.model.popular.best(1, answer.hidden)[0]):
                raise ModelFailed("The model gave scores that are not numbers.")
        except (DeadlineExceeded, Overloaded) as fault:
            answer.step_down(fault)
            return None
        except ModelFailed as fault:
            self._log.error("model_failed", model=answer.model.name, **describe(fault.__cause__ or fault))
            answer.step_down(fault)
            return None
        answer.stage_ms |= {"queue": ranked.queue_ms, "infer": ranked.infer_ms}
        return ranked

    def _rules(self, ask: Ask, answer: Answer, last: LastList | None) -> NDArray[np.int64]:
        """Indices that must not appear: asked for, seen where the scenario or the request says so, and not shown there.

        With the state out of reach, what this process remembers of the asker is the best that is known.
        """
        model = answer.model
        hidden = set(_indices(model, ask.exclude))
        leave_out_seen = answer.scenario.seen == "exclude" if ask.exclude_seen is None else ask.exclude_seen
        if leave_out_seen:
            hidden |= answer.behaviour.seen
        if leave_out_seen and answer.degraded:
            hidden.update(last.seen.tolist() if last is not None else ())
            for owner in ask.owners:
                looks = self._last_lists.looks(owner)
                hidden.update(_indices(model, [item for kind, item in looks if kind in model.manifest.history_events]))
        return _with_outside(hidden, answer)

    def _finish(self, answer: Answer) -> Answer:
        answer.stage_ms["total"] = answer.deadline.elapsed_ms
        self._metrics.answered(answer)
        return answer


def _from_model(
    ranked: Ranked, count: int, answer: Answer, history: Sequence[int], tier: Literal["model", "retrieved"]
) -> Picked:
    """The first items, or a list of the wanted diversity out of all; explained where that was asked for."""
    items, scores, explainer = ranked.items[:count], ranked.scores[:count], answer.model.explainer
    if ranked.reading is not None and answer.diversity:
        topics = explainer.topics(ranked.reading, ranked.items)
        places = diversify(ranked.scores, topics, count, answer.diversity)
        items, scores = ranked.items[places], ranked.scores[places]
    if ranked.reading is not None and answer.explain:
        answer.explanations = explainer.explain(ranked.reading, history, items)
        answer.intents = ranked.reading.intents
    told: list[float | None] = scores.tolist()
    if answer.ordered is not None and (choice := answer.scenario.ranker) is not None:
        told = [score if known else None for score, known in zip(told, choice.index_map[items], strict=True)]
    return Picked(tier, items, told)


def _from_cache(last: LastList, count: int, hidden: NDArray[np.int64]) -> Picked | None:
    """The last good list without what is hidden by now; None when less than half of the count is left."""
    keep = last.places_without(hidden)[:count]
    if 2 * len(keep) < min(count, len(last.items)):
        return None
    return Picked("cache", last.items[keep], last.scores[keep].tolist())


def _from_popular(model: ServedModel, count: int, hidden: NDArray[np.int64]) -> Picked:
    items, scores = model.popular.best(count, hidden)
    return Picked(model.popular.tier, items, scores)


def _indices(model: ServedModel, item_ids: Sequence[str]) -> list[int]:
    """Indices of the items that the model knows."""
    index_of = model.artefact.index_of
    return [index_of[item_id] for item_id in item_ids if item_id in index_of]


def _with_outside(hidden: set[int], answer: Answer) -> NDArray[np.int64]:
    """Together with the items that the answer's scenario does not show."""
    outside = answer.model.outside(answer.scenario.categories)
    if not len(outside):
        return _as_indices(hidden)
    return np.union1d(outside, _as_indices(hidden))


def _as_indices(indices: Collection[int]) -> NDArray[np.int64]:
    return np.fromiter(indices, np.int64, len(indices))
