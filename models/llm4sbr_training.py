"""How LLM4SBR is trained: every click as a plain session encoder, and at each step some answered prefixes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.config import LLM4SBRConfig, RunConfig
from models.data.dataset import Dataset
from models.data.splits import Split
from models.inputs import Inputs
from models.knowledge.intents import IntentKnowledge, load_intents, shuffled_intents
from models.llm4sbr import LLM4SBR, Answers
from models.llm4sbr_exam import IntentExam
from models.sessions.answered import prefix_numbers, split_answered
from models.sessions.intents import StandInIntents, Views, alignment_uniformity, distillation
from models.sessions.prefixes import PrefixBatch, SessionPrefixes
from models.sessions.training import NextClick


class LLM4SBRPaper:
    """LLM4SBR and its plain encoder, for `models.papers`."""

    def read_knowledge(self, config: RunConfig, dataset: Dataset) -> IntentKnowledge:
        assert config.data.knowledge is not None, "the configuration checks it"
        knowledge = load_intents(config.data.knowledge, dataset)
        if config.data.shuffle_knowledge:
            knowledge = shuffled_intents(knowledge, config.data.shuffle_seed)
        return knowledge

    def build_model(self, config: RunConfig, inputs: Inputs) -> LLM4SBR:
        assert isinstance(config.model, LLM4SBRConfig)
        return LLM4SBR(config.model, inputs.dataset.n_items, inputs.knowledge)

    def curriculum(
        self, config: RunConfig, inputs: Inputs, model: nn.Module, device: torch.device
    ) -> LLM4SBRCurriculum:
        assert isinstance(model, LLM4SBR)
        return LLM4SBRCurriculum(config, inputs, model, device)

    def exam(self, config: RunConfig, dataset: Dataset, split: Split) -> IntentExam:
        assert isinstance(config.model, LLM4SBRConfig)
        knowledge = self.read_knowledge(config, dataset)
        return IntentExam(dataset, split_answered(knowledge, dataset, split, config.model.answers_seed), knowledge)


class TaughtBatch(NamedTuple):
    """The clicks of a step, and answered prefixes beside them."""

    clicks: PrefixBatch
    answers: Tensor  # (B,) row of the answer to each of the clicks' prefixes, -1 for none
    taught: PrefixBatch | None  # answered prefixes; their targets are not read


class LLM4SBRCurriculum:
    """Every trained prefix once an epoch; beside each batch about `answered_batch` answered ones, all of them in turn.

    Only 3 % of Beauty's prefixes have answers: a batch of clicks alone would hold too few of them to align with.
    """

    def __init__(self, config: RunConfig, inputs: Inputs, model: LLM4SBR, device: torch.device) -> None:
        self.batch_size, self.model, self.settings = config.train.batch_size, model, model.config
        knowledge: IntentKnowledge = inputs.knowledge
        parts = split_answered(knowledge, inputs.dataset, inputs.split, self.settings.answers_seed)
        train = parts.split.train
        numbers = prefix_numbers(train.lengths, knowledge.users, knowledge.cuts)
        n_prefixes = int(np.maximum(train.lengths - 1, 0).sum())
        keep = np.ones(n_prefixes, dtype=bool)
        keep[numbers[parts.not_targets]] = False  # whatever the number of answers, and of the plain encoder too
        self.prefixes = SessionPrefixes(train, self.settings.max_seq_len, device, keep)
        self.next_click = NextClick(config, dataclasses.replace(inputs, split=parts.split), device)

        # The same first ones whatever their number: fewer answers are a part of more.
        used = parts.taught[: self.settings.answers] if self.settings.is_taught else parts.taught[:0]
        self.texts = torch.as_tensor(knowledge.vectors[used], device=device)  # (n, 2, T)
        self.answer_of_prefix = torch.full((n_prefixes,), -1, dtype=torch.int64, device=device)
        self.answer_of_prefix[numbers[used]] = torch.arange(len(used), device=device)
        is_taught = np.zeros(n_prefixes, dtype=bool)
        is_taught[numbers[used]] = True
        self.taught = SessionPrefixes(train, self.settings.max_seq_len, device, is_taught)

    @property
    def n_batches(self) -> int:
        return self.prefixes.n_batches(self.batch_size)

    def begin_epoch(self) -> None:
        """Nothing is prepared."""

    def batches(self, generator: torch.Generator) -> Iterator[TaughtBatch]:
        in_turn = self._in_turn(generator)
        for clicks in self.prefixes.epoch(self.batch_size, generator):
            yield TaughtBatch(clicks, self.answer_of_prefix[clicks.prefixes], next(in_turn))

    def loss(self, batch: TaughtBatch) -> Tensor:
        clicks = batch.clicks
        answers = self._for_gates(batch.answers) if self.settings.gates else None
        read = self.model.read_sessions(clicks.item_seq, clicks.seq_len, answers)
        loss = self.next_click(read.queries, clicks, self.model.item_table())
        if batch.taught is not None:
            loss = loss + self._taught(batch.taught)
        return loss

    def _for_gates(self, rows: Tensor) -> Answers | None:
        """What the gates read of answers (rows (B,), -1 for none): each with a chance, as serving has none."""
        if not len(self.texts):
            return None
        kept = torch.rand(rows.shape, device=rows.device) >= self.settings.intent_dropout
        return Answers(self.texts[rows.clamp(min=0)], (rows >= 0) & kept)

    def _taught(self, prefixes: PrefixBatch) -> Tensor:
        """Scalar: alignment and uniformity of each view, and what the source of intents learns."""
        settings, model = self.settings, self.model
        read = model.read_sessions(prefixes.item_seq, prefixes.seq_len)
        said = model.intents_of(self.texts[self.answer_of_prefix[prefixes.prefixes]])
        loss = read.queries.new_zeros(())
        if settings.au_weight:
            losses = torch.stack([_of_view(view, read.behaviour, said) for view in settings.views])
            loss = settings.au_weight * (losses.mean() if settings.au_views == "mean" else losses.sum())
        if isinstance(model.source, StandInIntents):
            model.source.watch(said)
        if settings.learns_intents:
            assert read.intents is not None, "a source that learns"
            learnt = torch.stack([distillation(*pair) for pair in zip(read.intents, said, strict=True)])
            loss = loss + settings.distillation_weight * learnt.mean()
        return loss

    def _in_turn(self, generator: torch.Generator) -> Iterator[PrefixBatch | None]:
        """Answered prefixes for one step after another, all of them before one comes again; None without answers."""
        while len(self.texts) < 2:
            yield None
        while True:
            for batch in self.taught.epoch(self.settings.answered_batch, generator):
                if len(batch.prefixes) >= 2:  # what is left over; a single session is uniform with nothing
                    yield batch


def _of_view(view: str, behaviour: Views, said: Views) -> Tensor:
    return alignment_uniformity(getattr(behaviour, view), getattr(said, view))
