"""Requests, replies and problems as they cross HTTP. Hot routes write replies as bytes; tests hold them to these."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

ID_PATTERN = r"^[A-Za-z0-9_.:@-]{1,128}$"
MAX_COUNT, MAX_HISTORY, MAX_EXCLUDED, MAX_SEEDS = 200, 500, 1_000, 50
MAX_SUB_REQUESTS, MAX_EVENTS = 256, 1_000
MAX_CANDIDATES = 1_000

Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
ScenarioName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
EventType = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
Tier = Literal["model", "retrieved", "cache", "popular", "static"]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT, description="how many items; by default the scenario's")]
Timestamp = Annotated[float, Field(description="seconds since 1970; by default the time of arrival")]


class Request(BaseModel):
    """Strict: no unknown field, no "10" for 10, no infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# --- recommend ------------------------------------------------------------------------------------------------------


class PastEvent(Request):
    item_id: Id
    type: Annotated[EventType | None, Field(description="by default one that the model counts")] = None
    ts: Timestamp | None = None


class Exclude(Request):
    item_ids: Annotated[list[Id], Field(max_length=MAX_EXCLUDED)] = []
    seen: Annotated[bool | None, Field(description="leave out items of the history; by default the scenario's")] = None


# One instance for all requests: pydantic would copy a default that holds a list, 30 us each time.
_NO_EXCLUSIONS = Exclude()
Exclusions = Annotated[Exclude, Field(default_factory=lambda: _NO_EXCLUSIONS)]


class ModelChoice(Request):
    name: Annotated[str, StringConstraints(max_length=64)]
    version: Annotated[str | None, StringConstraints(max_length=64)] = None


Degrade = Annotated[
    Literal["allow", "never"],
    Field(description="allow: 200 with the best tier that fits; never: 503 or 504 instead of a lower tier"),
]


class RecommendRequest(Request):
    """Items for a history: the one in the request, or the stored one of a user and a session."""

    scenario: ScenarioName | None = None
    user_id: Id | None = None
    session_id: Id | None = None
    history: Annotated[
        list[PastEvent] | None, Field(max_length=MAX_HISTORY, description="oldest first; given = nothing is read")
    ] = None
    count: Count | None = None
    exclude: Exclusions
    model: Annotated[ModelChoice | None, Field(description="a loaded model other than the scenario's")] = None
    degrade: Degrade = "allow"
    explain: Annotated[bool, Field(description="say what speaks for each item, where the model answers")] = False
    diversity: Annotated[
        float,
        Field(ge=0, le=1, description="share of newness of topic against the model's score; 0 = the ranking itself"),
    ] = 0.0


class Interest(Reply):
    """What the query that gave an item its score is called."""

    kind: Annotated[
        Literal["phrase", "category"],
        Field(
            description="phrase: an LLM's, the nearest to the query; category: of the item, no phrase was near enough"
        ),
    ]
    text: str
    similarity: Annotated[float | None, Field(description="cosine of query and phrase; only of a phrase")] = None


class Because(Reply):
    """The item of the history that gives most of the score through that query."""

    item_id: str
    weight: Annotated[float, Field(description="its share of what speaks for the item, all its occurrences together")]


class Explanation(Reply):
    """What speaks for an item. A part that the model or the catalogue cannot give is left out."""

    query: Annotated[int, Field(description="which of the model's queries gives the item its score, from 0")]
    interest: Interest | None = None
    because: Because | None = None


class RecommendedItem(Reply):
    item_id: str
    score: Annotated[
        float | None,
        Field(description="model score, a ranker's is a chance from 0 to 1; training count in popular; none in static"),
    ]
    rank: int
    explanation: Annotated[
        Explanation | None, Field(description="only with `explain`, and only where the tier is model")
    ] = None


class ModelName(Reply):
    name: str
    version: str


class Served(Reply):
    """How the answer was made."""

    tier: Tier
    degraded: Annotated[bool, Field(description="the tier is lower than the one that was due")]
    reasons: list[str]
    model: ModelName
    scenario: str
    state: Annotated[Literal["redis", "memory", "request", "none"], Field(description="where the history came from")]
    history_used: Annotated[int, Field(description="items of the history that the model reads")]
    unknown_items: Annotated[int, Field(description="items of the request or history that the model does not know")]
    filtered_out: Annotated[
        int, Field(description="items of the catalogue that were seen, excluded, or outside the scenario's categories")
    ]
    top_k_recall: Annotated[
        float | None, Field(description="of an approximate top-k: its measured recall@20; null where top-k is exact")
    ]
    explained: Annotated[
        bool | None,
        Field(description="only with `explain`: whether the items carry explanations; lower tiers have none"),
    ] = None
    diversity: Annotated[
        float | None, Field(description="only with `diversity` above 0: the one applied; 0 on lower tiers")
    ] = None

    ranker: Annotated[
        ModelName | None, Field(description="only where the scenario has one and it ordered the items")
    ] = None
    unranked: Annotated[
        int | None, Field(description="only with `ranker`: retrieved items that it does not know, which come last")
    ] = None


class Budget(Reply):
    granted: float
    left: float


class IntentItem(Reply):
    item_id: str
    similarity: Annotated[float, Field(description="cosine of the intent and the item as one")]


class Intents(Reply):
    """What a language model would have named next, as predicted from the history: the items nearest to it."""

    long: Annotated[list[IntentItem], Field(description="judged by the taste of the whole history, nearest first")]
    short: Annotated[list[IntentItem], Field(description="judged by the last clicks, nearest first")]


class RecommendReply(Reply):
    recommendation_id: str
    items: list[RecommendedItem]
    intents: Annotated[
        Intents | None, Field(description="only with `explain`, and only where the model predicts them")
    ] = None
    served: Served
    timing_ms: Annotated[dict[str, float], Field(description="by stage, and total")]
    budget_ms: Budget


class SimilarRequest(Request):
    """Items like the given ones, by the cosine of the model's item vectors; the nearest of several counts."""

    item_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_SEEDS)]
    scenario: ScenarioName | None = None
    count: Count | None = None
    exclude: Exclusions
    model: ModelChoice | None = None
    degrade: Degrade = "allow"


# --- rank -----------------------------------------------------------------------------------------------------------


class RankRequest(Request):
    """The caller's candidates in the order of a scenario's ranker, for a history as in `RecommendRequest`."""

    candidates: Annotated[list[Id], Field(min_length=1, max_length=MAX_CANDIDATES)]
    scenario: ScenarioName | None = None
    user_id: Id | None = None
    session_id: Id | None = None
    history: Annotated[
        list[PastEvent] | None, Field(max_length=MAX_HISTORY, description="oldest first; given = nothing is read")
    ] = None
    degrade: Degrade = "allow"


class RankedItem(Reply):
    item_id: str
    score: Annotated[
        float | None,
        Field(description="chance of a click by the ranker; null where it was skipped or does not know the item"),
    ]
    rank: int


class RankServed(Reply):
    """How the answer was made."""

    tier: Annotated[Literal["model", "retrieved"], Field(description="retrieved: ranker skipped, in the order given")]
    degraded: Annotated[bool, Field(description="something was out of reach: the ranker, or the stored history")]
    reasons: list[str]
    ranker: ModelName
    scenario: str
    state: Annotated[Literal["redis", "memory", "request", "none"], Field(description="where the history came from")]
    history_used: Annotated[int, Field(description="items of the history that the ranker reads")]
    unknown_items: Annotated[int, Field(description="items of the history that the ranker does not know")]
    unknown_candidates: Annotated[int, Field(description="candidates that it does not know; they come last")]
    user_z: Annotated[
        Literal["told", "predicted", "none"],
        Field(description="from what an LLM told of the user, or from behaviour; none: the ranker has no user level"),
    ]


class RankReply(Reply):
    recommendation_id: str
    items: list[RankedItem]
    served: RankServed
    timing_ms: Annotated[dict[str, float], Field(description="by stage, and total")]
    budget_ms: Budget


class RankBatchItem(RankReply):
    status: Literal[200]


# --- batch ----------------------------------------------------------------------------------------------------------


class BatchRequest(Request):
    """Sub-requests are checked one by one, so that a bad one fails alone."""

    requests: Annotated[list[Any], Field(min_length=1, max_length=MAX_SUB_REQUESTS)]


class BatchItem(RecommendReply):
    status: Literal[200]


# --- problems -------------------------------------------------------------------------------------------------------


class Fault(Reply):
    pointer: Annotated[str, Field(description="JSON pointer into the request")]
    code: str
    detail: str


class Problem(Reply):
    """RFC 9457. `code` is stable; `detail` is for people and never repeats a value of the request."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str
    errors: list[Fault]


class BatchReply(Reply):
    """One result per sub-request, in order: a reply with `status` 200, or a problem."""

    results: list[BatchItem | Problem]


class RankBatchReply(Reply):
    """One result per sub-request, in order: a reply with `status` 200, or a problem."""

    results: list[RankBatchItem | Problem]


# --- events and people ----------------------------------------------------------------------------------------------


class NewEvent(Request):
    item_id: Id
    type: EventType
    event_id: Annotated[Id | None, Field(description="the same id again is a no-op for 24 hours")] = None
    user_id: Id | None = None
    session_id: Id | None = None
    ts: Timestamp | None = None

    @model_validator(mode="after")
    def _has_owner(self) -> Self:
        if self.user_id is None and self.session_id is None:
            raise ValueError("an event needs user_id or session_id")
        return self


class EventsRequest(Request):
    events: Annotated[list[NewEvent], Field(min_length=1, max_length=MAX_EVENTS)]


class RejectedEvent(Reply):
    index: int
    code: Literal["ts_too_old", "ts_in_future"]


class EventsReply(Reply):
    accepted: int
    duplicates: int
    rejected: list[RejectedEvent]
    unknown_items: Annotated[int, Field(description="accepted events with items that no loaded model knows")]
    durability: Annotated[
        Literal["stored", "queued"] | None,
        Field(description="stored: Redis confirmed; queued: in memory, may be lost; null: nothing was written"),
    ]


class MergeRequest(Request):
    """Moves events into the user; the sources are gone afterwards. Safe to repeat."""

    from_user_id: Id | None = None
    from_session_id: Id | None = None

    @model_validator(mode="after")
    def _has_source(self) -> Self:
        if self.from_user_id is None and self.from_session_id is None:
            raise ValueError("a merge needs from_user_id or from_session_id")
        return self


class MergeReply(Reply):
    moved: Annotated[int, Field(description="events that are new to the user")]


class DeleteReply(Reply):
    deleted: Annotated[int, Field(description="keys removed from the store")]


class ExportedEvent(Reply):
    event_id: str
    type: str
    item_id: str
    ts: float
    user_id: str | None
    session_id: str | None


class ExportReply(Reply):
    user_id: str
    events: list[ExportedEvent]


# --- operations -----------------------------------------------------------------------------------------------------


class ExplanationParts(Reply):
    """What the model's explanations can hold beside the winning query."""

    phrases: Annotated[int, Field(description="an LLM's phrases that name queries")]
    similarity_floor: Annotated[float | None, Field(description="least cosine of a phrase; null without phrases")]
    categories: Annotated[bool, Field(description="items have categories")]
    because: Annotated[bool, Field(description="the graph says which items of a history weigh most")]
    intents: Annotated[bool, Field(description="the graph predicts an LLM's long- and short-term intents")]


class ModelReply(Reply):
    name: str
    version: str
    sha256: Annotated[str, Field(description="digest of manifest.json, which holds the digests of everything else")]
    paper: str | None
    encoder: str
    device: Annotated[str, Field(description="execution provider in use")]
    top_k: Annotated[str, Field(description="top-k backend in use")]
    top_k_recall: Annotated[
        float | None, Field(description="measured recall@20 of an approximate one; null where exact")
    ]
    n_items: int
    dim: int
    max_seq_len: int
    history_source: str
    history_events: list[str]
    explanations: ExplanationParts
    metrics: dict[str, Any]
    dataset: dict[str, Any]


class RankerReply(Reply):
    name: str
    version: str
    sha256: str
    paper: str | None
    kind: Annotated[str, Field(description="backbone")]
    device: Annotated[str, Field(description="execution provider in use")]
    n_items: int
    max_seq_len: int
    scenarios: Annotated[list[str], Field(description="the ranker's own names")]
    told_users: Annotated[int, Field(description="users whose z comes from an LLM; for others it is predicted")]
    metrics: dict[str, Any]
    dataset: dict[str, Any]


class ScenarioReply(Reply):
    name: str
    default: bool
    model: ModelName
    count: int
    deadline_ms: int
    seen: Literal["exclude", "allow"]
    categories: Annotated[list[str], Field(description="only their items are shown; empty: all are")]
    ranker: ModelName | None
    candidates: Annotated[int | None, Field(description="retrieved for the ranker; null without one")]


class ModelsReply(Reply):
    models: list[ModelReply]
    rankers: list[RankerReply]
    scenarios: list[ScenarioReply]


class LiveReply(Reply):
    status: Literal["alive"]


class ReadyReply(Reply):
    status: Literal["ready"]
    checks: Annotated[dict[str, str] | None, Field(description="with ?verbose")] = None
