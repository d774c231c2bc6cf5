"""Session baselines as runs: nothing is trained, the same exam judges them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from models.config import NeighboursConfig, RunConfig
from models.data.dataset import Dataset
from models.data.splits import Split
from models.inputs import Inputs
from models.retrieval_exam import RetrievalExam
from models.sessions.neighbours import ItemNeighbours, SessionNeighbours, ended_at
from models.sessions.training import session_exam


class NeighboursPaper:
    """Item-kNN and VMIS-kNN, for `models.papers`."""

    def read_knowledge(self, config: RunConfig, dataset: Dataset) -> None:
        return None

    def build_model(self, config: RunConfig, inputs: Inputs) -> ItemNeighbours | SessionNeighbours:
        """The baseline, complete: it is counted from the training sessions."""
        assert isinstance(config.model, NeighboursConfig)
        train, n_items = inputs.split.train, inputs.dataset.n_items
        if config.model.method == "items":
            return ItemNeighbours(config.model, train, n_items)
        return SessionNeighbours(config.model, train, n_items, ended_at(inputs.dataset))

    def curriculum(self, config: RunConfig, inputs: Inputs, model: nn.Module, device: torch.device) -> NothingToLearn:
        return NothingToLearn()

    def exam(self, config: RunConfig, dataset: Dataset, split: Split) -> RetrievalExam:
        return session_exam(dataset, split)


class NothingToLearn:
    """A curriculum without batches."""

    n_batches = 0

    def begin_epoch(self) -> None:
        """Nothing is prepared."""

    def batches(self, generator: torch.Generator) -> Iterator[None]:
        return iter(())

    def loss(self, batch: None) -> Tensor:
        raise AssertionError("there are no batches")
