"""What a run reads, loaded: the same for every paper but for the kind of knowledge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from models.data.dataset import Dataset
from models.data.splits import Split


class Provenance(Protocol):
    """Knowledge of any kind: it says where it comes from."""

    @property
    def provenance(self) -> dict[str, Any]:
        """knowledge.json; `test_only` is true of knowledge that says nothing."""
        ...


@dataclass(frozen=True)
class Inputs:
    """What a run reads, loaded."""

    dataset: Dataset
    split: Split
    knowledge: Any  # of the paper's own kind, a `Provenance`; None where its model needs none
