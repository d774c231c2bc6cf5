"""What every model promises: to serving, to training, to evaluation. Papers differ behind these, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from rich.console import Console

    from models.config import RunConfig
    from models.data.dataset import Dataset
    from models.data.splits import Split
    from models.evaluation_page import Plot
    from models.inputs import Inputs, Provenance

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class EncoderInputs:
    """How a model's encoder wants its histories; the manifest's `encoder` block is filled from it."""

    kind: str
    paper: str | None
    padding: Literal["left", "right"]
    mode: Literal["clean", "reference"]
    max_seq_len: int
    fixed_length: int | None
    dim: int
    n_queries: int
    has_attention: bool = False  # an `AttentiveModel`
    has_intents: bool = False  # an `IntentModel`
    reads_titles: bool = False  # an `IntentModel` whose intents are made of rows of its `intent_table`


@dataclass(frozen=True, eq=False)
class Phrases:
    """Texts that name interests: where training placed them, and what the text encoder says before any training."""

    texts: list[str]  # n, each once
    vectors: Tensor  # float32 (n, D), in the space of the item table
    text_vectors: Tensor  # float32 (n, T)
    item_text_vectors: Tensor  # float32 (n_items + 1, T) of the items' titles, zero without one


@runtime_checkable
class RetrieverModel(Protocol):
    """A model that turns a history into query vectors over one item table.

    B batch, L length, Q n_queries, D dim. score(item) = max over queries of <query, item>.
    """

    def describe_inputs(self) -> EncoderInputs: ...

    def item_table(self) -> Tensor:
        """float32 (n_items + 1, D): everything known of an item folded into one row; row 0 is padding."""
        ...

    def encode_vectors(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> Tensor:
        """float32 queries (B, Q, D) from `item_table()[item_seq]` (B, L, D), item_seq (B, L) and seq_len (B,)."""
        ...


@runtime_checkable
class NeighbourModel(Protocol):
    """A retriever that reads rows of more items than those of the history: their neighbours."""

    def reads(self, item_seq: Tensor) -> Tensor:
        """int64 (B, L, ...): `encode_vectors` gets `item_table()[reads(item_seq)]` in place of that of item_seq."""
        ...


def items_read(model: object, item_seq: Tensor) -> Tensor:
    """The items whose rows `model` wants for histories item_seq (B, L)."""
    return model.reads(item_seq) if isinstance(model, NeighbourModel) else item_seq


@runtime_checkable
class ScoringModel(Protocol):
    """A rule that scores the catalogue without query vectors: a baseline, judged like a retriever and never served."""

    n_items: int
    max_seq_len: int  # newest items of a history that it reads

    def score_histories(self, histories: list[NDArray[np.int64]]) -> Tensor:
        """float32 (B, n_items + 1) of histories that are not empty; -inf for what is no answer."""
        ...


class AttentiveModel(RetrieverModel, Protocol):
    """A retriever that says how much each item of a history weighs in each query."""

    def encode_with_attention(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> tuple[Tensor, Tensor]:
        """`encode_vectors` of the same arguments, and attention float32 (B, Q, L), 0 on padding."""
        ...

    def interest_phrases(self) -> Phrases | None:
        """What an LLM said of interests, placed in the space of the item table; None where none taught the model."""
        ...


class IntentModel(RetrieverModel, Protocol):
    """A retriever that says what a language model would have said of a history, in a long and a short view."""

    def intent_table(self) -> Tensor:
        """float32 (n_items + 1, D): each item as an intent; row 0 is padding. An intent is known by its neighbours."""
        ...

    def encode_with_intents(
        self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor, titles: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`encode_vectors` of the same arguments, and intents float32 (B, 2, D): long, short.

        Args:
            titles: rows of `intent_table` of item_seq (B, L, D), where `reads_titles`.
        """
        ...


@dataclass(frozen=True)
class RankerInputs:
    """How a ranker wants to be asked; the manifest's `ranker` block is filled from it."""

    kind: str
    paper: str | None
    padding: Literal["left", "right"]
    max_seq_len: int
    dim: int  # of an item row
    z_size: int  # 0: the model has no user level and takes no z


class ServedRanker(Protocol):
    """The part of a ranker that is served, everything that is constant by then multiplied out; a torch module."""

    def __call__(
        self,
        history: Tensor,
        seq_len: Tensor,
        scenario_index: Tensor,
        candidates: Tensor,
        user_z: Tensor | None = None,
        has_user_z: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, C) of rows of candidates (B, C, dim) after rows of a history (B, L, dim).

        Where has_user_z (B,) is 0, z is predicted from the history and user_z (B, z_size) is not read.
        """
        ...


@runtime_checkable
class RankerModel(Protocol):
    """A model that orders candidates for a user in a scenario. B requests, L length, C candidates."""

    def describe_ranker(self) -> RankerInputs: ...

    def item_table(self) -> Tensor:
        """float32 (n_items + 1, dim): everything known of an item folded into one row; row 0 is padding."""
        ...

    def served(self) -> nn.Module:
        """A `ServedRanker`."""
        ...

    def told_users(self) -> tuple[Tensor, Tensor]:
        """Rows of the users (n,) whom an LLM told of, ascending, and their z (n, z_size)."""
        ...


class Curriculum(Protocol[Batch]):
    """What one model is trained on. Holds the model; the trainer owns the optimiser, the epochs and the checkpoint.

    Whatever it draws comes from torch's global generator or the one it is given: both are seeded anew each epoch, so
    that a run that was killed goes on as if it had not been.
    """

    @property
    def n_batches(self) -> int:
        """Batches of one epoch."""
        ...

    def begin_epoch(self) -> None:
        """What is prepared once an epoch, before its first batch."""
        ...

    def batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """The batches of one epoch."""
        ...

    def loss(self, batch: Batch) -> Tensor:
        """Scalar to minimise, the model in training mode."""
        ...


@dataclass(frozen=True)
class Tested:
    """What an exam found on the test cases."""

    report: dict[str, Any]  # sections of evaluation.json: at least `policy`, `groups` and `test`
    plots: list[Plot]


class Exam(Protocol):
    """How a model is judged: the metric that early stopping looks at (higher is better), validation, and the test."""

    @property
    def criterion(self) -> str: ...

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Metrics on the validation cases, `criterion` among them; the model is in eval mode."""
        ...

    def test(self, model: nn.Module, folder: Path, console: Console, n_negatives: int, negatives_seed: int) -> Tested:
        """The report on the test cases; the files that carry it on are written to the run's `folder`."""
        ...


class Paper(Protocol):
    """One paper's part in a run: what it reads of an LLM, its model, what that is trained on, how it is judged."""

    def read_knowledge(self, config: RunConfig, dataset: Dataset) -> Provenance | None: ...

    def build_model(self, config: RunConfig, inputs: Inputs) -> nn.Module:
        """A freshly initialised model; the caller seeds torch."""
        ...

    def curriculum(
        self, config: RunConfig, inputs: Inputs, model: nn.Module, device: torch.device
    ) -> Curriculum[Any]: ...

    def exam(self, config: RunConfig, dataset: Dataset, split: Split) -> Exam: ...
