"""How EIMF is trained (arXiv:2411.09410): the interest nearest to the target against negatives, and ESIM's losses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import EIMFConfig, RunConfig
from models.data.dataset import Dataset, Sequences
from models.data.splits import Split
from models.eimf import EIMF
from models.esim import ESIM
from models.inputs import Inputs
from models.interests import Interests
from models.knowledge.interests import InterestKnowledge, load_interests, shuffled_interests
from models.layers import left_padding_mask
from models.losses import NegativeItems, Negatives, SeenItems, hard_softmax, ranking_loss
from models.retrieval_exam import RetrievalExam


class EIMFPaper:
    """EIMF and its plain retrievers, for `models.papers`."""

    def read_knowledge(self, config: RunConfig, dataset: Dataset) -> InterestKnowledge | None:
        if config.data.knowledge is None or not config.model.needs_knowledge:
            return None
        knowledge = load_interests(config.data.knowledge, dataset, config.data.split)
        if config.data.shuffle_knowledge:
            knowledge = shuffled_interests(knowledge, config.data.shuffle_knowledge, config.data.shuffle_seed)
        return knowledge

    def build_model(self, config: RunConfig, inputs: Inputs) -> EIMF:
        assert isinstance(config.model, EIMFConfig)
        return EIMF(config.model, inputs.dataset.n_items, inputs.knowledge)

    def curriculum(self, config: RunConfig, inputs: Inputs, model: nn.Module, device: torch.device) -> EIMFCurriculum:
        assert isinstance(model, EIMF)
        return EIMFCurriculum(config, inputs, model, device)

    def exam(self, config: RunConfig, dataset: Dataset, split: Split) -> RetrievalExam:
        several = split.valid.n_targets is not None
        return RetrievalExam(dataset, split, criterion="recall@50" if several else "ndcg@10")


class PrefixBatch(NamedTuple):
    """Prefixes of training sequences and the item after each. B users, L the longest prefix among them, left-padded."""

    users: Tensor  # (B,)
    item_seq: Tensor  # (B, L)
    seq_len: Tensor  # (B,)
    targets: Tensor  # (B,)


class Prefixes:
    """Training sequences on the device, cut before a random target (sheet, section 2)."""

    def __init__(self, train: Sequences, max_seq_len: int, first_target: int, device: torch.device) -> None:
        self._items = torch.as_tensor(train.items, dtype=torch.int64, device=device)
        offsets = torch.as_tensor(train.offsets, dtype=torch.int64, device=device)
        self._starts, self._lengths = offsets[:-1], offsets.diff()
        self._max_seq_len, self._first_target = max_seq_len, first_target
        self.trainable = torch.nonzero(self._lengths >= 2)[:, 0]

    def epoch(self, batch_size: int, generator: torch.Generator) -> Iterator[PrefixBatch]:
        """Every trainable user once, with a target drawn evenly among its items from `first_target` (0-based) on.

        A sequence that ends before it has its last item as the target.
        """
        n = len(self.trainable)
        order = self.trainable[torch.randperm(n, generator=generator).to(self.trainable.device)]
        drawn = torch.rand(n, generator=generator, dtype=torch.float64).to(order.device)
        lengths = self._lengths[order]
        first = (lengths - 1).clamp(max=self._first_target)
        targets = first + (drawn * (lengths - first)).long()
        for users, places in zip(order.split(batch_size), targets.split(batch_size), strict=True):
            yield self.batch(users, places)

    def batch(self, users: Tensor, places: Tensor) -> PrefixBatch:
        """The items before place `places` (B,) of the users' sequences, the newest max_seq_len, and the one there."""
        seq_len = places.clamp(max=self._max_seq_len)
        length = int(seq_len.max())
        columns = torch.arange(length, device=users.device)
        at = self._starts[users] + places
        item_seq = self._items[(at[:, None] - length + columns).clamp(min=0)]
        item_seq = torch.where(columns >= length - seq_len[:, None], item_seq, 0)
        return PrefixBatch(users, item_seq, seq_len, self._items[at])


class EIMFCurriculum:
    """Every user once an epoch, with one target; the interest nearest to it learns (hard read-out, sheet, 4)."""

    def __init__(self, config: RunConfig, inputs: Inputs, model: EIMF, device: torch.device) -> None:
        self.config, self.model, self.settings = config, model, model.config
        train = inputs.split.train
        self.prefixes = Prefixes(train, self.settings.max_seq_len, self.settings.first_target, device)
        items = torch.as_tensor(train.items, device=device)
        n_rows = inputs.dataset.n_items + 1
        self.seen = SeenItems(torch.as_tensor(train.rows, device=device), items, n_rows)
        self.negatives = NegativeItems(config.loss.negatives, torch.bincount(items, minlength=n_rows))

    @property
    def n_batches(self) -> int:
        return math.ceil(len(self.prefixes.trainable) / self.config.train.batch_size)

    def begin_epoch(self) -> None:
        """Nothing is prepared."""

    def batches(self, generator: torch.Generator) -> Iterator[PrefixBatch]:
        return self.prefixes.epoch(self.config.train.batch_size, generator)

    def loss(self, batch: PrefixBatch) -> Tensor:
        settings, negatives = self.settings, self.negatives.draw(self.config.loss.n_negatives)
        named = self._named(batch, negatives.items)
        found = self.model.encode_interests(F.embedding(named.item_seq, named.table), batch.seq_len)
        own = F.embedding(named.targets, named.table)  # (B, D)
        best = (found.queries @ own[..., None])[..., 0].argmax(1)
        queries = found.queries[torch.arange(len(best), device=best.device), best]  # (B, D)
        if settings.mines_negatives:
            loss = hard_softmax(queries, named.targets, named.table, named.negatives, settings.hard_negatives)
        else:
            drawn = negatives._replace(items=named.negatives)
            loss = ranking_loss(self.config.loss, queries, named.targets, batch.users, named.table, self.seen, drawn)
        if settings.retriever == "remi":
            loss = loss + settings.routing_weight * routing_spread(found, batch.seq_len)
        if self.model.esim is not None:
            loss = loss + self._taught(self.model.esim, batch, queries, own, negatives)
        return loss

    def _taught(self, esim: ESIM, batch: PrefixBatch, queries: Tensor, own: Tensor, negatives: Negatives) -> Tensor:
        """Scalar: both losses of ESIM by their weights; queries and own rows (B, D) of the targets."""
        settings = self.settings
        meant = esim.meant(batch.users, batch.targets)
        known = meant.known
        loss = queries.new_zeros(())
        if settings.semantic_prediction_weight and known.any():
            states = meant.vectors[known] / math.sqrt(settings.text_size)
            targets, users = batch.targets[known], batch.users[known]
            predicted = ranking_loss(self.config.loss, states, targets, users, esim.item_texts, self.seen, negatives)
            loss = loss + settings.semantic_prediction_weight * predicted
        if settings.alignment_weight:
            loss = loss + settings.alignment_weight * esim.alignment(queries, own, batch.targets, meant)
        return loss

    def _named(self, batch: PrefixBatch, negatives: Tensor) -> _Named:
        """The rows a step reads, gathered once: each look-up in the whole table costs a gradient of its size.

        bce and full_softmax may read any row.
        """
        table = self.model.item_table()
        if self.config.loss.kind != "sampled_softmax":
            return _Named(table, batch.item_seq, batch.targets, negatives)
        shape = batch.item_seq.shape
        items = torch.cat([negatives.new_zeros(1), batch.item_seq.flatten(), batch.targets, negatives])
        rows, at = torch.unique(items, return_inverse=True)  # 0, padding, comes first
        _, item_seq, targets, negatives = at.split([1, shape.numel(), len(batch.targets), len(negatives)])
        return _Named(F.embedding(rows, table), item_seq.view(shape), targets, negatives)


class _Named(NamedTuple):
    """A part of the item table, and what a step reads of it as its rows."""

    table: Tensor  # (U, D)
    item_seq: Tensor  # (B, L)
    targets: Tensor  # (B,)
    negatives: Tensor  # (K,)


def routing_spread(found: Interests, seq_len: Tensor) -> Tensor:
    """Scalar L_rr of REMI, 0 where each interest weighs all items of its history alike.

    Mean over users of the sum over interests of the squared distance, squared, between attention and its mean. The
    published one sums over the batch, takes the mean over padding too and divides by D^2: its weight 100 amounts to
    about 3 of this at 128 users and D = 64, and holds for no other size (sheet, 8.6).
    """
    mask = left_padding_mask(seq_len, found.attention.shape[-1])[:, None]
    mean = 1 / seq_len.clamp(min=1)[:, None, None]
    distance = torch.where(mask, found.attention - mean, 0.0).square().sum(-1)  # (B, K)
    return distance.square().sum(1).mean()
