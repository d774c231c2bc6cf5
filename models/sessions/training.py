"""How a plain session retriever is trained and judged: every prefix names the click after it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from models.config import RunConfig, SessionConfig
from models.data.dataset import Dataset
from models.data.splits import Split
from models.inputs import Inputs
from models.losses import NegativeItems, SeenItems, ranking_loss
from models.retrieval_exam import RetrievalExam
from models.sessions.gce_gnn import global_neighbours
from models.sessions.prefixes import PrefixBatch, SessionPrefixes
from models.sessions.retriever import SessionRetriever


def session_exam(dataset: Dataset, split: Split) -> RetrievalExam:
    """P@k (which is hr@k), MRR@k and NDCG@k of the next click; a click may be one that was there before."""
    return RetrievalExam(dataset, split, criterion="mrr@20", headline=("hr@20", "mrr@20"), filter_seen=False)


class SessionPaper:
    """Plain session retrievers, for `models.papers`."""

    def read_knowledge(self, config: RunConfig, dataset: Dataset) -> None:
        return None

    def build_model(self, config: RunConfig, inputs: Inputs) -> SessionRetriever:
        assert isinstance(config.model, SessionConfig)
        n_items = inputs.dataset.n_items
        if config.model.encoder != "gce-gnn":
            return SessionRetriever(config.model, n_items)
        neighbours = global_neighbours(inputs.split.train, n_items, config.model.n_neighbours)
        return SessionRetriever(config.model, n_items, neighbours)

    def curriculum(
        self, config: RunConfig, inputs: Inputs, model: nn.Module, device: torch.device
    ) -> SessionCurriculum:
        assert isinstance(model, SessionRetriever)
        return SessionCurriculum(config, inputs, model, device)

    def exam(self, config: RunConfig, dataset: Dataset, split: Split) -> RetrievalExam:
        return session_exam(dataset, split)


class NextClick:
    """The loss of sessions' queries against the clicks after them, over a whole item table or negatives of it."""

    def __init__(self, config: RunConfig, inputs: Inputs, device: torch.device) -> None:
        self.config = config.loss
        items = torch.as_tensor(inputs.split.train.items, device=device)
        rows = torch.as_tensor(inputs.split.train.rows, device=device)
        n_rows = inputs.dataset.n_items + 1
        self.seen = SeenItems(rows, items, n_rows)
        self.negatives = NegativeItems(self.config.negatives, torch.bincount(items, minlength=n_rows))

    def __call__(self, queries: Tensor, batch: PrefixBatch, table: Tensor) -> Tensor:
        """Scalar; queries (B, D), table (N, D)."""
        negatives = self.negatives.draw(self.config.n_negatives)
        return ranking_loss(self.config, queries, batch.targets, batch.sessions, table, self.seen, negatives)


class SessionCurriculum:
    """Every prefix once an epoch."""

    def __init__(self, config: RunConfig, inputs: Inputs, model: SessionRetriever, device: torch.device) -> None:
        self.batch_size, self.model = config.train.batch_size, model
        self.prefixes = SessionPrefixes(inputs.split.train, model.config.max_seq_len, device)
        self.next_click = NextClick(config, inputs, device)

    @property
    def n_batches(self) -> int:
        return self.prefixes.n_batches(self.batch_size)

    def begin_epoch(self) -> None:
        """Nothing is prepared."""

    def batches(self, generator: torch.Generator) -> Iterator[PrefixBatch]:
        return self.prefixes.epoch(self.batch_size, generator)

    def loss(self, batch: PrefixBatch) -> Tensor:
        return self.next_click(self.model.encode(batch.item_seq, batch.seq_len), batch, self.model.item_table())
