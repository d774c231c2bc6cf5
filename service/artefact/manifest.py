"""`manifest.json`: the one file of an artefact that says what the others mean. Both halves use this model."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SerializerFunctionWrapHandler, model_serializer

SCHEMA_VERSION = 1
VERSION_PATTERN = r"^\d{8}T\d{6}Z-[0-9a-f]{8}$"
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
EVENT_PATTERN = r"^[A-Za-z0-9_.:-]{1,64}$"
FILE_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"

# Every kind of interest counts unless whoever exports says otherwise.
HISTORY_EVENTS = ("view", "click", "cart", "purchase")

FileName = Annotated[str, Field(pattern=FILE_PATTERN, description="a plain name inside the artefact, never a path")]

EventName = Annotated[str, Field(pattern=EVENT_PATTERN, description="an event's `type`")]
HistorySource = Literal["user", "session", "user+session"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorSpec(_Part):
    """One input or output of a graph. A string in `shape` is a dynamic axis."""

    name: str
    dtype: Literal["float32", "int64"]
    shape: list[int | str]


class FileSpec(_Part):
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class EncoderSpec(_Part):
    """How the retriever's graph wants its histories."""

    kind: Annotated[str, Field(description="sasrec, noop, popularity, custom, ...")]
    padding: Literal["left", "right"]
    mode: Literal["clean", "reference"] = "clean"
    max_seq_len: Annotated[int, Field(ge=1)]
    fixed_length: Annotated[
        int | None, Field(description="set when the graph takes one length only (reference mode)")
    ] = None
    dim: Annotated[int, Field(ge=1)]
    n_queries: Annotated[int, Field(ge=1)]
    minimum_history: Annotated[
        int, Field(ge=0, description="below it the service answers `popular`; 0 = the model answers an empty history")
    ] = 1


class RankerSpec(_Part):
    """How the ranker's graph wants to be asked."""

    kind: Annotated[str, Field(description="star, mmoe, ple, shared-bottom, aitm, pepnet")]
    padding: Literal["left", "right"]
    max_seq_len: Annotated[int, Field(ge=1)]
    dim: Annotated[int, Field(ge=1, description="width of an item row")]
    z_size: Annotated[int, Field(ge=0, description="width of user_z; 0 = the graph takes none")]
    scenarios: Annotated[list[str], Field(min_length=1, description="names by scenario_index")]


class UserZSpec(_Part):
    """z of the users an LLM told of, looked up by user_id; for all others the graph predicts it."""

    file: Annotated[FileName, Field(description="float16 (n_users, z_size)")] = "user_z.npy"
    ids: Annotated[FileName, Field(description="user ids, bytes (n_users,), ascending, row-aligned")] = "user_z_ids.npy"
    n_users: Annotated[int, Field(ge=1)]


class ItemTableSpec(_Part):
    """A per-item table, row-aligned with items.npy (row 0 is padding)."""

    file: FileName
    dtype: str
    shape: list[int]
    meaning: str


class PhrasesSpec(_Part):
    """Phrases that name interests, as vectors in the space of items.npy; an encoder with `attention` may have them.

    A query is named by the phrase nearest to it by cosine, if it is near enough.
    """

    file: Annotated[FileName, Field(description="float32 (n_phrases, dim)")] = "interest_phrases.npy"
    texts: Annotated[FileName, Field(description="JSON list of n_phrases strings, row-aligned")] = (
        "interest_phrases.json"
    )
    n_phrases: Annotated[int, Field(ge=1)]
    similarity_floor: Annotated[
        float, Field(ge=-1, le=1, description="least cosine at which a phrase names a query (decision 11)")
    ]


class Evaluation(_Part):
    """The policy under which the held-out metrics hold; a scenario's defaults follow it."""

    split: str
    seen_filtered: bool
    repeats: Annotated[str, Field(description="what happens to targets already in the history")]
    dropped_targets: dict[str, int] = Field(default_factory=dict)
    tie_rule: Literal["lowest item_id"] = "lowest item_id"
    history_length: int


class GoldenSpec(_Part):
    """`golden.npz`: raw histories -> queries, top_items, top_scores, per case (empty, short, exact, over-long)."""

    file: FileName = "golden.npz"
    cases: list[str]
    k: int = 20
    atol_per_std: Annotated[float, Field(description="tolerance = this x the standard deviation of the scores")] = 1e-4


class _AnyManifest(BaseModel):
    """What is said of any artefact."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    version: Annotated[str, Field(pattern=VERSION_PATTERN)]
    created_at: datetime
    paper: str | None


class Manifest(_AnyManifest):
    """Everything about a retriever's artefact that is not weights."""

    role: Literal["retriever"]
    encoder: EncoderSpec
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    n_items: Annotated[int, Field(ge=1)]
    item_tables: Annotated[dict[str, ItemTableSpec], Field(description="`items` is items.npy; others by name")]
    golden: GoldenSpec
    interest_phrases: PhrasesSpec | None = None
    files: Annotated[dict[FileName, FileSpec], Field(description="every file of the directory but manifest.json")]

    dataset: dict[str, JsonValue]
    seed: int | None
    config: dict[str, JsonValue]
    knowledge: Annotated[dict[str, JsonValue] | None, Field(description="knowledge.json of the run; null = none used")]
    history_source: HistorySource
    history_events: Annotated[list[EventName], Field(min_length=1)]
    metrics: Annotated[dict[str, JsonValue], Field(description="held-out, e.g. overall and tail_item blocks")]
    evaluation: Evaluation | None

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """An artefact without phrases reads, and is digested, as one from before there were any (decision 11)."""
        written: dict[str, Any] = handler(self)
        if self.interest_phrases is None:
            written.pop("interest_phrases", None)
        return written

    @property
    def n_evaluated_items(self) -> int:
        """Items the held-out metrics rank: the first rows. Those that were added to the artefact later follow them.

        Read from `dataset`, where each addition is recorded with its `n_items`.
        """
        additions = self.dataset.get("added_items")
        if not isinstance(additions, list):
            return self.n_items
        sizes = [addition.get("n_items") for addition in additions if isinstance(addition, dict)]
        return max(0, self.n_items - sum(size for size in sizes if isinstance(size, int)))


class RankerManifest(_AnyManifest):
    """Everything about a ranker's artefact that is not weights (decision 13)."""

    role: Literal["ranker"]
    ranker: RankerSpec
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    n_items: Annotated[int, Field(ge=1)]
    item_tables: Annotated[dict[str, ItemTableSpec], Field(description="`items` is items.npy, the item features")]
    user_z: UserZSpec | None
    golden: GoldenSpec
    files: Annotated[dict[FileName, FileSpec], Field(description="every file of the directory but manifest.json")]

    dataset: dict[str, JsonValue]
    seed: int | None
    config: dict[str, JsonValue]
    knowledge: Annotated[dict[str, JsonValue] | None, Field(description="knowledge.json of the run; null = none used")]
    history_source: HistorySource
    history_events: Annotated[list[EventName], Field(min_length=1)]
    metrics: Annotated[
        dict[str, JsonValue], Field(description="held-out, per scenario; `z`: with the LLM's, predicted and default z")
    ]
    evaluation: Annotated[dict[str, JsonValue] | None, Field(description="the policy under which metrics hold")]


def version_of(manifest: dict[str, Any], created_at: datetime) -> str:
    """`YYYYMMDDTHHMMSSZ-<8 hex>`: time of creation and digest of the manifest without its version."""
    kind = RankerManifest if manifest.get("role") == "ranker" else Manifest
    body = kind.model_validate({**manifest, "version": "00000000T000000Z-00000000"})
    digest = hashlib.sha256(body.model_dump_json(exclude={"version"}).encode()).hexdigest()
    return f"{created_at:%Y%m%dT%H%M%SZ}-{digest[:8]}"
