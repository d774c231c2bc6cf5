"""A plain session retriever: item rows, an encoder with two views, and the readout of its paper."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.config import SessionConfig
from models.contracts import EncoderInputs
from models.sessions.build import build_encoder, build_readout, item_embeddings, start_evenly
from models.sessions.gce_gnn import GCEGNNEncoder, Neighbours

PAPERS = {
    "sr-gnn": "SR-GNN (arXiv:1811.00855)",
    "gru4rec": "GRU4Rec (arXiv:1511.06939)",
    "sasrec": "SASRec (arXiv:1808.09781)",
    "gce-gnn": "GCE-GNN (arXiv:2106.05081)",
    "stamp": "STAMP (doi:10.1145/3219819.3219950)",
}


class SessionRetriever(nn.Module):
    """One query a session; score(item) = <query, row of the item>.

    B batch, L length, D hidden_size, N n_items + 1. A model that teaches these parts more composes the same ones:
    `item_embeddings`, `encoder` (a `SessionEncoder`) and, in place of `readout`, its own.
    """

    def __init__(self, config: SessionConfig, n_items: int, neighbours: Neighbours | None = None) -> None:
        super().__init__()
        self.config = config
        self.item_embeddings = item_embeddings(n_items, config.hidden_size)
        self.encoder = build_encoder(config, neighbours)
        self.readout = build_readout(config)
        if config.encoder in ("sr-gnn", "gce-gnn"):  # as published
            for part in (self.encoder, self.readout):
                start_evenly(part, config.hidden_size)  # type: ignore[arg-type]  # both are torch modules

    def describe_inputs(self) -> EncoderInputs:
        config = self.config
        return EncoderInputs(
            kind=config.encoder,
            paper=PAPERS[config.encoder],
            padding="left",
            mode="clean",
            max_seq_len=config.max_seq_len,
            fixed_length=None,
            dim=config.hidden_size,
            n_queries=1,
        )

    def reads(self, item_seq: Tensor) -> Tensor:
        """The items whose rows `encode_vectors` wants: the clicks, or (B, L, 1 + neighbours) of gce-gnn."""
        return self.encoder.reads(item_seq) if isinstance(self.encoder, GCEGNNEncoder) else item_seq

    def item_table(self) -> Tensor:
        """(N, D), the learnt rows."""
        return self.item_embeddings

    def encode_vectors(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> Tensor:
        return self.readout(*self.encoder(vectors, item_seq, seq_len))[:, None]

    def encode(self, item_seq: Tensor, seq_len: Tensor) -> Tensor:
        """queries (B, D) of sessions."""
        return self.encode_vectors(F.embedding(self.reads(item_seq), self.item_table()), item_seq, seq_len)[:, 0]
