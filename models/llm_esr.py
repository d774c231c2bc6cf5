"""LLM-ESR (arXiv:2405.20646): a dual view of items, taught by an LLM at training time only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.sasrec import SASRecEncoder
from models.config import ModelConfig
from models.contracts import EncoderInputs
from models.errors import ConfigError
from models.layers import MultiHeadAttention, left_padding_mask

if TYPE_CHECKING:
    from models.knowledge.store import Knowledge


class LLMESR(nn.Module):
    """LLM-ESR over a SASRec encoder; with the collaborative view alone it is the plain backbone.

    B batch, L length, D hidden_size, V views (1 or 2), N n_items + 1. An item is the concatenation of its views, a
    history too, and a score is their dot product, so it splits into a collaborative and a semantic score.

    Departs from the published code in clean mode: attention, the cross attention included, is causal and masks
    padding, because otherwise a training position would see its own target.
    """

    def __init__(self, config: ModelConfig, n_items: int, knowledge: Knowledge | None) -> None:
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
            self.adapter = nn.Sequential(nn.Linear(llm_dim, llm_dim // 2), nn.Linear(llm_dim // 2, width))
        if "collaborative" in config.views:
            self.item_embeddings = nn.Parameter(torch.empty(n_items + 1, width))
        self.encoder = SASRecEncoder(
            width,
            config.max_seq_len,
            config.n_blocks,
            config.n_heads,
            config.dropout,
            clean=config.mode == "clean",
        )
        if config.is_dual_view and config.cross_attention:
            # Two heads, no bias on the inputs, no dropout, no residual (sheet, 4.2).
            self.cross_to_collaborative = MultiHeadAttention(width, 2, input_bias=False, dropout=0.0)
            self.cross_to_semantic = MultiHeadAttention(width, 2, input_bias=False, dropout=0.0)
        self._initialise(knowledge)

    def describe_inputs(self) -> EncoderInputs:
        config = self.config
        return EncoderInputs(
            kind="sasrec",
            paper="LLM-ESR (arXiv:2405.20646)" if config.is_dual_view else None,
            padding="left",
            mode=config.mode,
            max_seq_len=config.max_seq_len,
            fixed_length=config.max_seq_len if config.mode == "reference" else None,
            dim=config.hidden_size * len(config.views),
            n_queries=1,
        )

    def item_table(self) -> Tensor:
        """(N, V x D): [E_co ; A(E_llm)], what look-up and scoring both read."""
        halves: list[Tensor] = []
        if "collaborative" in self.config.views:
            halves.append(self.item_embeddings)
        if "semantic" in self.config.views:
            halves.append(self._adapt(self.llm_item_embeddings))
        return torch.cat(halves, dim=1)

    def _adapt(self, vectors: Tensor) -> Tensor:
        """The adapter of (N, llm_dim) vectors: two linear layers trained as two, but multiplied out before use.

        There is no activation between them (sheet, 4.1), so this is the same map at a third of the cost.
        """
        first, second = self.adapter
        weight = second.weight @ first.weight  # (D, llm_dim)
        return F.linear(vectors, weight, second.weight @ first.bias + second.bias)

    def encode_positions(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """(B, L, V x D) states of each position from item vectors (B, L, V x D) and mask (B, L)."""
        views = [self.encoder.prepare(view, mask) for view in vectors.split(self.config.hidden_size, dim=-1)]
        if self.config.is_dual_view and self.config.cross_attention:
            collaborative, semantic = views
            bias = self.encoder.cross_bias(mask)
            views = [
                self.cross_to_collaborative(semantic, collaborative, bias),
                self.cross_to_semantic(collaborative, semantic, bias),
            ]
        return torch.cat([self.encoder(view, mask) for view in views], dim=-1)  # one encoder, shared weights

    def encode_vectors(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> Tensor:
        mask = left_padding_mask(seq_len, item_seq.shape[1])
        return self.encode_positions(vectors, mask)[:, -1:, :]

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
