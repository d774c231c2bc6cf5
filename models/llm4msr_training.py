"""How LLM4MSR is trained (arXiv:2406.12529): cross entropy of what was taken, meta networks and backbone together."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import LLM4MSRConfig, RunConfig
from models.data.dataset import Dataset
from models.data.splits import Split
from models.inputs import Inputs
from models.item_attributes import item_attributes
from models.knowledge.meta import MetaKnowledge, load_meta, random_vectors, shuffled_users
from models.llm4msr import LLM4MSR
from models.ranker_exam import RankerExam
from models.ranker_examples import RankingData, ranking_data, with_negatives


class LLM4MSRPaper:
    """LLM4MSR and its plain backbones, for `models.papers`."""

    def read_knowledge(self, config: RunConfig, dataset: Dataset) -> MetaKnowledge | None:
        assert isinstance(config.model, LLM4MSRConfig)
        if config.data.knowledge is None or not config.model.needs_knowledge:
            return None
        knowledge = load_meta(config.data.knowledge, dataset, config.data.split)
        if config.data.shuffle_knowledge:
            knowledge = shuffled_users(knowledge, config.data.shuffle_seed)
        if config.model.vectors == "random":
            knowledge = random_vectors(knowledge, config.data.shuffle_seed)
        return knowledge

    def build_model(self, config: RunConfig, inputs: Inputs) -> LLM4MSR:
        assert isinstance(config.model, LLM4MSRConfig)
        attributes = item_attributes(inputs.dataset, inputs.split)
        return LLM4MSR(config.model, attributes, len(inputs.dataset.scenario_names), inputs.knowledge)

    def curriculum(
        self, config: RunConfig, inputs: Inputs, model: nn.Module, device: torch.device
    ) -> LLM4MSRCurriculum:
        assert isinstance(model, LLM4MSR)
        data = _data_of(config, inputs.dataset, inputs.split)
        return LLM4MSRCurriculum(config, data, model, device)

    def exam(self, config: RunConfig, dataset: Dataset, split: Split) -> RankerExam:
        """The plain backbone too is told by whom the LLM told of, where its configuration names the knowledge."""
        told = None
        if config.data.knowledge is not None:
            told = load_meta(config.data.knowledge, dataset, config.data.split).row_of_user > 0
        return RankerExam(_data_of(config, dataset, split), split.name, told)


def _data_of(config: RunConfig, dataset: Dataset, split: Split) -> RankingData:
    assert isinstance(config.model, LLM4MSRConfig)
    model = config.model
    return _ranking_data(
        config.data.dataset, dataset, split, model.max_seq_len, model.n_test_negatives, model.negatives_seed
    )


# Curriculum and exam of a run read the same moments. Data sets and splits compare by identity.
_ranking_data = functools.lru_cache(maxsize=1)(ranking_data)


class MomentBatch(NamedTuple):
    """B moments with C slots each."""

    item_seq: Tensor  # (B, L)
    seq_len: Tensor  # (B,)
    scenario_index: Tensor  # (B,)
    candidates: Tensor  # (B, C)
    labels: Tensor  # (B, C) float
    users: Tensor  # (B,)


class LLM4MSRCurriculum:
    """Every training moment once an epoch, in a new order and beside new negatives.

    Where moments hold what was shown, these are items that were not: a ranker behind a retriever meets such too.
    """

    def __init__(self, config: RunConfig, data: RankingData, model: LLM4MSR, device: torch.device) -> None:
        self.config, self.data, self.model, self.device = config, data, model, device
        self.settings = model.config
        moments = data.train
        columns = (moments.item_seq, moments.seq_len, moments.scenario_index, moments.user_index)
        self._fixed = [torch.as_tensor(column, device=device) for column in columns]
        self._fill(moments.candidates, moments.labels)

    @property
    def n_batches(self) -> int:
        return math.ceil(len(self.data.train) / self.config.train.batch_size)

    def begin_epoch(self) -> None:
        """Draws the epoch's negatives."""
        k = self.settings.n_unshown_negatives if self.data.shown else self.settings.n_negatives
        if k:
            rng = np.random.default_rng(int(torch.randint(2**62, (1,))))
            self._fill(*with_negatives(self.data.train, self.data.sampler, k, rng))

    def batches(self, generator: torch.Generator) -> Iterator[MomentBatch]:
        order = torch.randperm(len(self.data.train), generator=generator).to(self.device)
        item_seq, seq_len, scenarios, users = self._fixed
        for at in order.split(self.config.train.batch_size):
            yield MomentBatch(
                item_seq[at], seq_len[at], scenarios[at], self._candidates[at], self._labels[at], users[at]
            )

    def loss(self, batch: MomentBatch) -> Tensor:
        model = self.model
        history = model.rows(batch.item_seq)
        # Popularity and the right to an embedding of one's own come from these very labels: see `item_attributes`.
        candidates = model.rows(batch.candidates, batch.labels > 0)
        features = model.features(history, batch.seq_len, candidates, batch.scenario_index)
        z, matched = None, features.new_zeros(())
        if model.user_level is not None:
            z, matched = self._drawn_z(batch, history)
        filled = batch.candidates > 0
        logits = model.scores(features, batch.scenario_index, filled, z)
        taken = F.binary_cross_entropy_with_logits(logits[filled], batch.labels[filled])
        return taken + self.settings.match_weight * matched

    def _drawn_z(self, batch: MomentBatch, history: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, Z), of each moment the LLM's, the predicted or the default one; and how far prediction is off."""
        level, settings = self.model.user_level, self.settings
        assert level is not None
        predicted = level.predict(self.model.behaviour(history, batch.seq_len))
        told, known = self.model.told_z(batch.users)
        first, second = torch.rand(2, len(known), device=known.device)
        z = torch.where((known & (first >= settings.predicted_share))[:, None], told, predicted)
        z = torch.where((second < settings.default_share)[:, None], level.default, z)
        # Of moments without a history there is nothing to predict from.
        learnt = known & (batch.seq_len > 0)
        gap = (predicted - told.detach()).square().mean(1)
        return z, (gap * learnt).sum() / learnt.sum().clamp(min=1)

    def _fill(self, candidates: np.ndarray, labels: np.ndarray) -> None:
        self._candidates = torch.as_tensor(candidates, device=self.device)
        self._labels = torch.as_tensor(labels, dtype=torch.float32, device=self.device)
