"""How LLM-ESR is trained (arXiv:2405.20646): next items against negatives, and distillation from similar users."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.batches import TrainBatch, TrainingHistories, compact, n_batches
from models.config import LLMESRConfig, RunConfig
from models.data.dataset import Dataset
from models.data.splits import Split
from models.inputs import Inputs
from models.knowledge.store import Knowledge, load_knowledge
from models.knowledge_control import shuffled
from models.llm_esr import LLMESR
from models.losses import NegativeItems, SeenItems, distillation_loss, ranking_loss
from models.objectives import make_objective
from models.retrieval_exam import RetrievalExam

# Teachers encoded together. On a CPU the activations of 64 users stay in its cache (measured: 48 users 152 ms a step of
# Beauty, 64 138, 250 172, 500 245); a GPU wants them all.
_AT_ONCE = {"cpu": 64, "cuda": 8192}


class LLMESRPaper:
    """LLM-ESR and its plain backbones, for `models.papers`."""

    def read_knowledge(self, config: RunConfig, dataset: Dataset) -> Knowledge | None:
        if config.data.knowledge is None or not config.model.needs_knowledge:
            return None
        knowledge = load_knowledge(config.data.knowledge, dataset, config.data.split)
        if config.data.shuffle_knowledge:
            what = [name for name in config.data.shuffle_knowledge if name == "items" or name == "users"]
            knowledge = shuffled(knowledge, what, config.data.shuffle_seed)
        return knowledge

    def build_model(self, config: RunConfig, inputs: Inputs) -> LLMESR:
        assert isinstance(config.model, LLMESRConfig)
        return LLMESR(config.model, inputs.dataset.n_items, inputs.knowledge)

    def curriculum(self, config: RunConfig, inputs: Inputs, model: nn.Module, device: torch.device) -> LLMESRCurriculum:
        assert isinstance(model, LLMESR)
        return LLMESRCurriculum(config, inputs, model, device)

    def exam(self, config: RunConfig, dataset: Dataset, split: Split) -> RetrievalExam:
        return RetrievalExam(dataset, split, criterion="ndcg@10")


class LLMESRCurriculum:
    """Every user once an epoch; each position names its next item, and each user nears the mean of similar ones."""

    def __init__(self, config: RunConfig, inputs: Inputs, model: LLMESR, device: torch.device) -> None:
        self.config, self.model, self.settings, self.device = config, model, model.config, device
        train = inputs.split.train
        self.histories = TrainingHistories(
            train, self.settings.max_seq_len, device, model.describe_inputs().fixed_length
        )
        users = torch.as_tensor(np.repeat(np.arange(len(train)), train.lengths), device=device)
        items = torch.as_tensor(train.items, device=device)
        self.n_rows = inputs.dataset.n_items + 1
        self.seen = SeenItems(users, items, self.n_rows)
        self.negatives = NegativeItems(config.loss.negatives, torch.bincount(items, minlength=self.n_rows))
        self.objective = make_objective(self.settings, config.loss)
        self.similar_users = self._similar_users(inputs.knowledge)
        # With `teachers = "epoch"`: the state of every user, as the model was when the epoch began.
        self.teacher_states: Tensor | None = None

    @property
    def n_batches(self) -> int:
        return n_batches(len(self.histories.trainable), self.config.train.batch_size)

    def begin_epoch(self) -> None:
        """Encodes every user as a teacher, where the run says once an epoch."""
        if self.similar_users is not None and self.config.train.teachers == "epoch":
            self.teacher_states = self._user_states(torch.arange(len(self.histories.input_len), device=self.device))

    def batches(self, generator: torch.Generator) -> Iterator[TrainBatch]:
        return self.histories.epoch(self.config.train.batch_size, generator)

    def loss(self, batch: TrainBatch) -> Tensor:
        negatives = self.negatives.draw(self.config.loss.n_negatives)
        users = batch.users
        if self._is_compact(batch):
            rows, batch, items = compact(batch, negatives.items)
            table, negatives = self.model.item_table(rows), negatives._replace(items=items)
        else:
            table = self.model.item_table()
        taught = self.objective(self.model, table, batch)
        loss = ranking_loss(self.config.loss, taught.states, taught.targets, taught.users, table, self.seen, negatives)
        if self.similar_users is not None:
            similar = self.similar_users[users]  # (B, n)
            weights = (self.histories.input_len[similar] > 0).to(table.dtype)
            distance = distillation_loss(taught.students, self._teachers(similar), weights)
            loss = loss + self.settings.distillation_weight * distance
        return loss

    def _is_compact(self, batch: TrainBatch) -> bool:
        """Whether the adapter need not see the whole catalogue: this step can only read a part of it."""
        model, loss = self.settings, self.config.loss
        n_named = 2 * batch.item_seq.numel() + loss.n_negatives
        return "semantic" in model.views and loss.kind == "sampled_softmax" and n_named < self.n_rows

    def _teachers(self, similar: Tensor) -> Tensor:
        """States (B, n, V x D) of each student's similar users (B, n)."""
        if self.teacher_states is not None:
            return F.embedding(similar, self.teacher_states)
        users, at = torch.unique(similar, return_inverse=True)
        return F.embedding(at, self._user_states(users))

    @torch.no_grad()
    def _user_states(self, users: Tensor) -> Tensor:
        """States (U, V x D) of the users' training histories without their last items.

        Without dropout, where the published code leaves it on: a steadier target, and drawing the masks of ten
        teachers a student took most of a step.
        """
        self.model.eval()
        table = self.model.item_table()
        states = torch.empty(len(users), table.shape[1], device=self.device)
        for group in self.histories.by_length(users, _AT_ONCE[self.device.type]):
            batch = self.histories.batch(users[group])
            states[group] = self.model.encode(table, batch.item_seq, batch.seq_len)[:, 0]
        self.model.train()
        return states

    def _similar_users(self, knowledge: Knowledge | None) -> Tensor | None:
        model = self.settings
        if model.distillation_weight == 0 or knowledge is None:
            return None
        similar: NDArray[np.int64] = knowledge.similar_users[:, : model.n_teachers].astype(np.int64)
        return torch.as_tensor(similar, device=self.device)
