"""The part of a model that is served: the item look-up and what reads it, as one torch module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.items_file import INTENT_ITEMS
from models.contracts import AttentiveModel, IntentModel, RankerModel, RetrieverModel, items_read
from service.artefact.files import ITEMS
from service.artefact.manifest import EncoderSpec, RankerSpec


class EncoderGraph(nn.Module):
    """item_seq (B, L), seq_len (B,) -> queries (B, n_queries, dim): what `encoder.onnx` computes.

    A model with attention also gives attention (B, n_queries, L), one with intents also intents (B, 2, dim).

    The folded item table is a buffer called `items`, read by one look-up and by nothing else: its initializer can then
    be items.npy itself. The same holds of `intent_items`, where a model's intents are made of its rows.
    """

    items: Tensor
    intent_items: Tensor

    def __init__(self, model: RetrieverModel) -> None:
        super().__init__()
        self.model = model
        self.inputs = model.describe_inputs()
        with torch.no_grad():
            self.register_buffer("items", model.item_table().detach().float().contiguous())
            if self.inputs.has_intents:
                intentful: IntentModel = model  # type: ignore[assignment]  # it says so
                self.register_buffer("intent_items", intentful.intent_table().detach().float().contiguous())

    @property
    def spec(self) -> EncoderSpec:
        """How the manifest describes this encoder."""
        inputs = self.inputs
        return EncoderSpec(
            kind=inputs.kind,
            padding=inputs.padding,
            mode=inputs.mode,
            max_seq_len=inputs.max_seq_len,
            fixed_length=inputs.fixed_length,
            dim=inputs.dim,
            n_queries=inputs.n_queries,
        )

    @property
    def outputs(self) -> list[str]:
        """Names of what `forward` gives."""
        extra = [("attention", self.inputs.has_attention), ("intents", self.inputs.has_intents)]
        return ["queries", *(name for name, there in extra if there)]

    @property
    def tables(self) -> dict[str, str]:
        """The file of each table that `forward` looks items up in, by the name of its buffer."""
        return {"items": ITEMS} | ({"intent_items": INTENT_ITEMS} if self.inputs.reads_titles else {})

    def forward(self, item_seq: Tensor, seq_len: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        vectors = F.embedding(items_read(self.model, item_seq), self.items)
        if self.inputs.has_attention:
            attentive: AttentiveModel = self.model  # type: ignore[assignment]  # it says so
            return attentive.encode_with_attention(vectors, item_seq, seq_len)
        if self.inputs.has_intents:
            intentful: IntentModel = self.model  # type: ignore[assignment]
            titles = F.embedding(item_seq, self.intent_items) if self.inputs.reads_titles else None
            return intentful.encode_with_intents(vectors, item_seq, seq_len, titles)
        return self.model.encode_vectors(vectors, item_seq, seq_len)


class RankerGraph(nn.Module):
    """item_seq (B, L), seq_len (B,), scenario_index (B,), candidates (B, C) -> scores (B, C): `ranker.onnx`.

    A model with a user level takes user_z (B, z_size) and has_user_z (B,) as well. Histories and candidates are looked
    up in one buffer called `items`, which can then be items.npy itself.
    """

    items: Tensor

    def __init__(self, model: RankerModel) -> None:
        super().__init__()
        self.inputs = model.describe_ranker()
        with torch.no_grad():
            self.served = model.served()
            self.register_buffer("items", model.item_table().detach().float().contiguous())

    @property
    def tables(self) -> dict[str, str]:
        """The file of the table that `forward` looks items up in, by the name of its buffer."""
        return {"items": ITEMS}

    def spec(self, scenarios: Sequence[str]) -> RankerSpec:
        """How the manifest describes this ranker."""
        inputs = self.inputs
        return RankerSpec(
            kind=inputs.kind,
            padding=inputs.padding,
            max_seq_len=inputs.max_seq_len,
            dim=inputs.dim,
            z_size=inputs.z_size,
            scenarios=list(scenarios),
        )

    def forward(
        self,
        item_seq: Tensor,
        seq_len: Tensor,
        scenario_index: Tensor,
        candidates: Tensor,
        user_z: Tensor | None = None,
        has_user_z: Tensor | None = None,
    ) -> Tensor:
        history, shown = F.embedding(item_seq, self.items), F.embedding(candidates, self.items)
        scores: Tensor = self.served(history, seq_len, scenario_index, shown, user_z, has_user_z)
        return scores
