"""LLM4MSR (arXiv:2406.12529): a multi-scenario ranker with meta layers that an LLM's vectors generate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from models.config import LLM4MSRConfig
from models.contracts import RankerInputs
from models.item_attributes import ItemAttributes
from models.layers import MASKED, Dropout, left_padding_mask
from models.meta_layers import ScenarioLevel, UserLevel, apply_generated
from models.scenario_backbones.build import build_scenario_backbone

if TYPE_CHECKING:
    from models.knowledge.meta import MetaKnowledge

ZChoice = Literal["true", "predicted", "default"]


class LLM4MSR(nn.Module):
    """Feature part -> user layers -> backbone, beside it scenario layers; without both levels the plain backbone.

    B requests, L length, C candidates, R width of an item row, D width of a candidate's features, S scenarios, Z
    bottleneck. Departs from the paper in where vectors come from (knowledge.json of the run says it) and, for what the
    paper does not tell, as the sheet decides; for users without a vector z is predicted from their behaviour.
    """

    known: Tensor
    known_before: Tensor
    user_vectors: Tensor
    vector_of_user: Tensor

    def __init__(
        self, config: LLM4MSRConfig, attributes: ItemAttributes, n_scenarios: int, knowledge: MetaKnowledge | None
    ) -> None:
        super().__init__()
        self.config, self.n_scenarios = config, n_scenarios
        size, n_rows = config.embedding_size, len(attributes.values)
        # (n_items + 1, 1 + attributes): the row of an item's own embedding, 0 for none, and its attributes.
        for name, values, counts in (
            ("known", attributes.values, attributes.counts),
            ("known_before", attributes.values_before, attributes.counts - 1),
        ):
            own = np.where(counts >= config.min_item_events, np.arange(n_rows), 0)
            self.register_buffer(name, torch.as_tensor(np.column_stack([own, values])), persistent=False)
        self.item_embeddings = nn.Embedding(n_rows, size, padding_idx=0)
        self.attribute_embeddings = nn.ModuleList(nn.Embedding(n, size) for n in attributes.sizes)
        for table in (self.item_embeddings, *self.attribute_embeddings):
            assert isinstance(table, nn.Embedding)
            nn.init.normal_(table.weight, std=size**-0.5 / 2)
        with torch.no_grad():
            self.item_embeddings.weight[0].zero_()
        self.row_size = size * (1 + len(attributes.sizes))
        self.scenario_embeddings = nn.Embedding(n_scenarios, size)
        self.to_query = nn.Linear(self.row_size, size, bias=False)
        self.to_key = nn.Linear(self.row_size, size, bias=False)
        self.recency = nn.Parameter(torch.zeros(config.max_seq_len))  # last entry: the newest event
        self.dropout = Dropout(config.dropout)
        self.project = nn.Linear(3 * self.row_size + size, config.width)
        self.backbone = build_scenario_backbone(config, n_scenarios)
        # Built last: with the same seed, the backbone starts from the same weights with them and without.
        self.user_level: UserLevel | None = None
        self.scenario_level: ScenarioLevel | None = None
        if config.needs_knowledge:
            if knowledge is None:
                raise ValueError("meta layers need knowledge")
            vectors = torch.as_tensor(knowledge.user_vectors)
            self.register_buffer("user_vectors", vectors, persistent=False)  # (E + 1, H), row 0 nobody
            self.register_buffer("vector_of_user", torch.as_tensor(knowledge.row_of_user), persistent=False)
            if config.user_level:
                self.user_level = UserLevel(
                    vectors.shape[1], self.row_size, config.z_size, config.width, config.n_user_layers
                )
            if config.scenario_level:
                self.scenario_level = ScenarioLevel(
                    torch.as_tensor(knowledge.scenario_vectors),
                    config.z_size,
                    config.width,
                    config.n_scenario_layers,
                )

    def rows(self, items: Tensor, taken: Tensor | None = None) -> Tensor:
        """(..., R): everything known of items (...); where bool `taken` (...), without the event that took them."""
        known = self.known[items]
        if taken is not None:
            known = torch.where(taken[..., None], self.known_before[items], known)
        tables = (self.item_embeddings, *self.attribute_embeddings)
        return torch.cat([table(known[..., place]) for place, table in enumerate(tables)], dim=-1)

    def item_table(self) -> Tensor:
        """float32 (n_items + 1, R): everything known of an item folded into one row; row 0 is padding."""
        return self.rows(torch.arange(len(self.known), device=self.known.device))

    def features(self, history: Tensor, seq_len: Tensor, candidates: Tensor, scenario_index: Tensor) -> Tensor:
        """(B, C, D) of candidates' rows (B, C, R) after a history of rows (B, L, R) in scenarios (B,)."""
        length = history.shape[1]
        real = left_padding_mask(seq_len, length)[:, None]  # (B, 1, L)
        affinity = self.to_query(candidates) @ self.to_key(history).transpose(1, 2)  # (B, C, L)
        affinity = affinity * self.config.embedding_size**-0.5 + self.recency[self.config.max_seq_len - length :]
        weights = affinity.masked_fill(~real, MASKED).softmax(-1)
        # With nothing but padding every weight would be 1 / L.
        attended = weights.masked_fill(~real, 0.0) @ history  # (B, C, R)
        scenario = self.scenario_embeddings(scenario_index)[:, None].expand(-1, candidates.shape[1], -1)
        parts = torch.cat([candidates, attended, candidates * attended, scenario], dim=-1)
        projected: Tensor = self.project(self.dropout(parts))
        return projected

    def behaviour(self, history: Tensor, seq_len: Tensor) -> Tensor:
        """(B, R): the mean row of each history; zeros where it is empty."""
        real = left_padding_mask(seq_len, history.shape[1])[..., None]
        return (history * real).sum(1) / seq_len.clamp(min=1)[:, None]

    def told_z(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, Z) of rows of users (B,) by the LLM, and bool (B,) where it told of them."""
        assert self.user_level is not None
        row = self.vector_of_user[users]
        return self.user_level.bottleneck(self.user_vectors[row]), row > 0

    def z_of(self, users: Tensor, history: Tensor, seq_len: Tensor, choice: ZChoice) -> Tensor:
        """z (B, Z) as serving has it (`true`: the LLM's where it told, else predicted), or the same kind for all."""
        assert self.user_level is not None
        if choice == "default":
            return self.user_level.default.expand(len(users), -1)
        predicted = self.user_level.predict(self.behaviour(history, seq_len))
        if choice == "predicted":
            return predicted
        told, known = self.told_z(users)
        return torch.where(known[:, None], told, predicted)

    def scores(self, features: Tensor, scenario_index: Tensor, filled: Tensor, z: Tensor | None) -> Tensor:
        """Logits (B, C) of features (B, C, D); z (B, Z) where there is a user level, filled bool (B, C)."""
        if self.user_level is not None:
            assert z is not None
            features = self.user_level(features, z)
        logits: Tensor = self.backbone(features, scenario_index, filled)
        if self.scenario_level is not None:
            logits = logits + self.scenario_level(features, scenario_index)
        return logits

    def describe_ranker(self) -> RankerInputs:
        return RankerInputs(
            kind=self.config.backbone,
            paper="LLM4MSR (arXiv:2406.12529)" if self.config.needs_knowledge else None,
            padding="left",
            max_seq_len=self.config.max_seq_len,
            dim=self.row_size,
            z_size=0 if self.user_level is None else self.config.z_size,
        )

    def served(self) -> nn.Module:
        return ServedLLM4MSR(self)

    def told_users(self) -> tuple[Tensor, Tensor]:
        if self.user_level is None:
            return torch.empty(0, dtype=torch.int64), torch.empty(0, 0)
        users = torch.nonzero(self.vector_of_user)[:, 0]
        with torch.no_grad():
            return users, self.told_z(users)[0]

    def forward(
        self,
        item_seq: Tensor,
        seq_len: Tensor,
        scenario_index: Tensor,
        candidates: Tensor,
        users: Tensor,
        choice: ZChoice = "true",
    ) -> Tensor:
        """Logits (B, C) for histories (B, L), scenarios (B,), candidates (B, C) and rows of users (B,)."""
        history = self.rows(item_seq)
        features = self.features(history, seq_len, self.rows(candidates), scenario_index)
        z = None if self.user_level is None else self.z_of(users, history, seq_len, choice)
        return self.scores(features, scenario_index, candidates > 0, z)


class ServedLLM4MSR(nn.Module):
    """LLM4MSR in eval mode, for `ranker.onnx`: scenario layers generated once, the backbone folded, no LLM vector.

    Reads rows of items and not their indices, so that its look-up can be items.npy itself.
    """

    def __init__(self, model: LLM4MSR) -> None:
        super().__init__()
        self.model = model.eval()
        self.n_generated = 0
        with torch.no_grad():
            self.backbone = model.backbone.folded()
            if model.scenario_level is not None:
                layers = model.scenario_level.generated()
                self.n_generated = len(layers)
                for place, (weight, bias) in enumerate(layers):
                    # The last layer is linear, so its strength can be part of it.
                    strength = model.scenario_level.strength if place == len(layers) - 1 else 1.0
                    self.register_buffer(f"weight_{place}", (weight * strength).contiguous())
                    self.register_buffer(f"bias_{place}", (bias * strength).contiguous())

    def forward(
        self,
        history: Tensor,
        seq_len: Tensor,
        scenario_index: Tensor,
        candidates: Tensor,
        user_z: Tensor | None = None,
        has_user_z: Tensor | None = None,
    ) -> Tensor:
        model = self.model
        features = model.features(history, seq_len, candidates, scenario_index)
        if model.user_level is not None:
            assert user_z is not None
            assert has_user_z is not None
            predicted = model.user_level.predict(model.behaviour(history, seq_len))
            features = model.user_level(features, torch.where(has_user_z[:, None] > 0, user_z, predicted))
        # Statistics are folded, so nobody asks which slots are filled.
        logits: Tensor = self.backbone(features, scenario_index, candidates[..., 0] == candidates[..., 0])
        if self.n_generated:
            layers = [
                (getattr(self, f"weight_{place}"), getattr(self, f"bias_{place}")) for place in range(self.n_generated)
            ]
            logits = logits + apply_generated(layers, features, scenario_index)
        return logits
