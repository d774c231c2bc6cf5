"""LLM-ESR (arXiv:2405.20646): a dual view of items, taught by an LLM at training time only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.build import build_backbone
from models.config import LLMESRConfig
from models.contracts import EncoderInputs
from models.errors import ConfigError
from models.layers import MultiHeadAttention, left_padding_mask

if TYPE_CHECKING:
    from models.knowledge.store import Knowledge


class LLMESR(nn.Module):
    """LLM-ESR over a sequence encoder; with the collaborative view alone it is the plain backbone.

    B batch, L length, D hidden_size, V views (1 or 2), N n_items + 1. An item is the concatenation of its views, a
    history too, and a score is their dot product, so it splits into a collaborative and a semantic score.

    Departs from the published code in clean mode: attention, the cross attention included, is causal and masks
    padding, because otherwise a training position would see its own target.
    """

    llm_item_embeddings: Tensor

    def __init__(self, config: LLMESRConfig, n_items: int, knowledge: Knowledge | None) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        if "semantic" in config.views:
            if knowledge is None:
                raise ValueError("the semantic view needs knowledge")
            llm_item_embeddings = torch.from_numpy(knowledge.item_vectors).float()  # (N, llm_dim), row 0 zero
            llm_dim = llm_item_embeddings.shape[1]
            # Frozen: the sheet (8.6) reports that tuning it hurts, tail items first.
            self.register_buffer("llm_item_embeddings", llm_item_embeddings, persistent=False)
            if config.adapter_layers == 2:
                self.adapter = nn.Sequential(nn.Linear(llm_dim, llm_dim // 2), nn.Linear(llm_dim // 2, width))
            else:
                self.adapter = nn.Sequential(nn.Linear(llm_dim, width))
        if "collaborative" in config.views:
            self.item_embeddings = nn.Parameter(torch.empty(n_items + 1, width))
        self.encoder = build_backbone(config)
        if config.is_dual_view and not config.share_backbone:
            self.semantic_encoder = build_backbone(config)
        if config.backbone == "bert4rec":
            # Stands where an item is asked for. No row of the item table: the published code keeps one there.
            self.mask_vector = nn.Parameter(torch.empty(1, width * len(config.views)))
        if config.is_dual_view and config.cross_attention:
            # Two heads, no bias on the inputs, no dropout, no residual (sheet, 4.2).
            self.cross_to_collaborative = MultiHeadAttention(width, 2, input_bias=False, dropout=0.0)
            self.cross_to_semantic = MultiHeadAttention(width, 2, input_bias=False, dropout=0.0)
        self._initialise(knowledge)

    def describe_inputs(self) -> EncoderInputs:
        config = self.config
        return EncoderInputs(
            kind=config.backbone,
            paper="LLM-ESR (arXiv:2405.20646)" if config.is_dual_view else None,
            padding="left",
            mode=config.mode,
            max_seq_len=config.max_seq_len,
            fixed_length=config.max_seq_len if config.mode == "reference" else None,
            dim=config.hidden_size * len(config.views),
            n_queries=1,
        )

    def item_table(self, rows: Tensor | None = None) -> Tensor:
        """(N, V x D): [E_co ; A(E_llm)], what look-up and scoring both read.

        Args:
            rows: (U,) item indices; only their rows (U, V x D), in this order.
        """
        halves: list[Tensor] = []
        if "collaborative" in self.config.views:
            halves.append(self.item_embeddings if rows is None else F.embedding(rows, self.item_embeddings))
        if "semantic" in self.config.views:
            llm = self.llm_item_embeddings
            halves.append(self._adapt(llm if rows is None else llm[rows]))
        return torch.cat(halves, dim=1)

    def _adapt(self, vectors: Tensor) -> Tensor:
        """The adapter of (N, llm_dim) vectors: its linear layers trained as they are, but multiplied out before use.

        There is no activation between them (sheet, 4.1), so this is the same map at a third of the cost.
        """
        weight: Tensor | None = None
        bias: Tensor | None = None
        for layer in self.adapter:
            assert isinstance(layer, nn.Linear)
            bias = layer.bias if bias is None else layer.weight @ bias + layer.bias
            weight = layer.weight if weight is None else layer.weight @ weight  # (D, llm_dim) in the end
        assert weight is not None
        return F.linear(vectors, weight, bias)

    def encode_positions(self, vectors: Tensor, mask: Tensor, *, last_only: bool = False) -> Tensor:
        """(B, L, V x D) states of each position from item vectors (B, L, V x D) and mask (B, L).

        Args:
            last_only: only the last position's states (B, 1, V x D); its query alone goes through the last block.
        """
        views = self._prepare(vectors, mask)
        if self.config.is_dual_view and self.config.cross_attention:
            collaborative, semantic = views
            bias = self.encoder.cross_bias(mask)
            views = [
                self.cross_to_collaborative(semantic, collaborative, bias),
                self.cross_to_semantic(collaborative, semantic, bias),
            ]
        if self._has_two_encoders:
            both = zip((self.encoder, self.semantic_encoder), views, strict=True)
            return torch.cat([encoder(view, mask, last_only=last_only) for encoder, view in both], dim=-1)
        # One encoder, shared weights: the views go through it as one batch (V x B), half as many small operations.
        states = self.encoder(torch.cat(views), mask.repeat(len(views), 1), last_only=last_only)
        return states.unflatten(0, (len(views), -1)).permute(1, 2, 0, 3).flatten(2)

    @property
    def _has_two_encoders(self) -> bool:
        return self.config.is_dual_view and not self.config.share_backbone

    def _prepare(self, vectors: Tensor, mask: Tensor) -> list[Tensor]:
        """Each view (B, L, D) as its encoder wants it."""
        parts = vectors.split(self.config.hidden_size, dim=-1)
        second = self.semantic_encoder if self._has_two_encoders else self.encoder
        return [encoder.prepare(part, mask) for encoder, part in zip((self.encoder, second), parts, strict=False)]

    def encode_vectors(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> Tensor:
        mask = left_padding_mask(seq_len, item_seq.shape[1])
        if self.config.backbone == "bert4rec":  # it is asked by a mask token after the newest item
            vectors = torch.cat([vectors, self.mask_vector.expand(vectors.shape[0], 1, -1)], dim=1)
            mask = F.pad(mask, (0, 1), value=True)
        return self.encode_positions(vectors, mask, last_only=True)

    def masked_vectors(self, vectors: Tensor, masked: Tensor) -> Tensor:
        """Item vectors (B, L, V x D) with the mask token where `masked` (B, L); of a bert4rec model."""
        return torch.where(masked[..., None], self.mask_vector, vectors)

    def encode(self, table: Tensor, item_seq: Tensor, seq_len: Tensor) -> Tensor:
        """queries (B, 1, V x D) of histories, with the item table computed beforehand."""
        return self.encode_vectors(F.embedding(item_seq, table), item_seq, seq_len)

    def _initialise(self, knowledge: Knowledge | None) -> None:
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)
        if "collaborative" not in self.config.views:
            return
        with torch.no_grad():
            if self.config.collaborative_init == "pca":
                if knowledge is None:
                    raise ValueError("collaborative_init 'pca' needs knowledge")
                self.item_embeddings.copy_(_principal_components(knowledge, self.config.hidden_size))
            self.item_embeddings[0].zero_()


def _principal_components(knowledge: Knowledge, width: int) -> Tensor:
    """(N, width): LLM item vectors on their first principal axes, centred, not whitened; row 0 zero."""
    kept = knowledge.pca_components.shape[0]
    if kept < width:
        raise ConfigError(
            f"model.hidden_size is {width}, the knowledge holds {kept} principal components to start from"
        )
    projected = (knowledge.item_vectors - knowledge.pca_mean) @ knowledge.pca_components[:width].T
    projected[0] = 0.0
    return torch.from_numpy(projected).float()
