"""EIMF (arXiv:2411.09410): a multi-interest retriever (IBIM), taught by LLM interests (ESIM) at training time only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import EIMFConfig
from models.contracts import EncoderInputs, Phrases
from models.esim import ESIM
from models.interests import Interests, build_interest_encoder
from models.layers import left_padding_mask

if TYPE_CHECKING:
    from models.knowledge.interests import InterestKnowledge


class EIMF(nn.Module):
    """A multi-interest encoder over an item table; without ESIM it is the plain retriever.

    B batch, L length, K interests, D hidden_size, N n_items + 1. score(item) = max over interests of <interest, item>.
    What is served reads `item_embeddings` and `encoder`; `esim` is there while it teaches.
    """

    def __init__(self, config: EIMFConfig, n_items: int, knowledge: InterestKnowledge | None) -> None:
        super().__init__()
        self.config = config
        bound = config.hidden_size**-0.5
        self.item_embeddings = nn.Parameter(torch.empty(n_items + 1, config.hidden_size).uniform_(-bound, bound))
        with torch.no_grad():
            self.item_embeddings[0].zero_()
        self.encoder = build_interest_encoder(config)
        # Built last: with the same seed, the retriever starts from the same weights with it and without.
        self.esim: ESIM | None = None
        if config.needs_knowledge:
            if knowledge is None:
                raise ValueError("semantic prediction and alignment need knowledge")
            self.esim = ESIM(config, knowledge)

    def describe_inputs(self) -> EncoderInputs:
        config = self.config
        return EncoderInputs(
            kind=config.retriever,
            paper="EIMF (arXiv:2411.09410)" if config.needs_knowledge else None,
            padding="left",
            mode="clean",
            max_seq_len=config.max_seq_len,
            fixed_length=None,
            dim=config.hidden_size,
            n_queries=config.n_interests,
            has_attention=True,
        )

    def item_table(self) -> Tensor:
        """(N, D), the learnt rows."""
        return self.item_embeddings

    def encode_interests(self, vectors: Tensor, seq_len: Tensor) -> Interests:
        """Interests of item vectors (B, L, D) and lengths (B,)."""
        found: Interests = self.encoder(vectors, left_padding_mask(seq_len, vectors.shape[1]))
        return found

    def encode_vectors(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> Tensor:
        return self.encode_interests(vectors, seq_len).queries

    def encode_with_attention(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> tuple[Tensor, Tensor]:
        queries, attention = self.encode_interests(vectors, seq_len)
        return queries, attention

    def interest_phrases(self) -> Phrases | None:
        """Every interest of every typical user, where alignment has taught how texts lie among items."""
        if self.esim is None or self.config.alignment_weight == 0:
            return None
        first = {text: row for row, text in reversed(list(enumerate(self.esim.texts)))}
        rows = sorted(first.values())
        return Phrases(
            texts=[self.esim.texts[row] for row in rows],
            vectors=self.esim.phrases()[rows],
            text_vectors=self.esim.interest_texts[self.esim.interest_mask][rows],
            item_text_vectors=self.esim.item_texts,
        )

    def encode(self, item_seq: Tensor, seq_len: Tensor) -> Tensor:
        """queries (B, K, D) of histories."""
        return self.encode_interests(F.embedding(item_seq, self.item_table()), seq_len).queries
