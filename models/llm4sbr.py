"""LLM4SBR (arXiv:2402.13840): a session encoder whose two views are aligned with, and gated by, LLM intents."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import LLM4SBRConfig
from models.contracts import EncoderInputs
from models.layers import left_padding_mask
from models.sessions.build import ConcatReadout, build_encoder, item_embeddings, start_evenly
from models.sessions.intents import Gate, Views, build_intent_source

if TYPE_CHECKING:
    from models.knowledge.intents import IntentKnowledge


class Answers(NamedTuple):
    """What a language model said of some sessions of a batch. T width of texts."""

    texts: Tensor  # (B, 2, T) long and short view; any value where there is no answer
    known: Tensor  # bool (B,)


class Read(NamedTuple):
    """What the model makes of sessions."""

    queries: Tensor  # (B, D)
    behaviour: Views
    intents: Views | None  # from behaviour alone; None: the model has no source of them


class LLM4SBR(nn.Module):
    """A session encoder, intents from behaviour alone, gates, and one query: W [gate g; gate l] + b.

    B batch, L length, D hidden_size, N n_items + 1, T width of texts. In training the gates read the language model's
    answers where there are some; served, they read what `source` makes of behaviour, and no answer is looked up. What
    gates read of `source` carries no gradient: sources learn from answers alone, and mean what a language model means.
    """

    localised_titles: Tensor

    def __init__(self, config: LLM4SBRConfig, n_items: int, knowledge: IntentKnowledge) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.item_embeddings = item_embeddings(n_items, width)
        self.encoder = build_encoder(config)
        # Of every encoder, as in the paper, and of the plain one here too, so that the two differ by intents alone.
        self.readout = ConcatReadout(width)
        if config.encoder == "sr-gnn":
            for part in (self.encoder, self.readout):
                start_evenly(part, width)  # type: ignore[arg-type]  # both are torch modules
        # Built last: with the same seed, the encoder starts from the same weights with intents and without.
        titles = torch.from_numpy(knowledge.localised_titles)
        self.register_buffer("localised_titles", titles, persistent=False)  # (N, T)
        needs_projection = config.is_taught or config.intents != "none"
        self.projection = nn.Linear(titles.shape[1], width) if needs_projection else None
        self.source = build_intent_source(config)
        self.gates = nn.ModuleDict({view: Gate(width) for view in config.views} if config.gates else {})

    def describe_inputs(self) -> EncoderInputs:
        config = self.config
        return EncoderInputs(
            kind=config.encoder,
            paper="LLM4SBR (arXiv:2402.13840)" if config.is_taught else None,
            padding="left",
            mode="clean",
            max_seq_len=config.max_seq_len,
            fixed_length=None,
            dim=config.hidden_size,
            n_queries=1,
            has_intents=self.source is not None,
            reads_titles=self.source is not None and self.source.reads_titles,
        )

    def item_table(self) -> Tensor:
        """(N, D), the learnt rows."""
        return self.item_embeddings

    def intent_table(self) -> Tensor:
        """(N, D): each item's title, placed as if a language model had answered it; zero without a title."""
        return self._placed(self.localised_titles)

    def read(
        self,
        vectors: Tensor,
        item_seq: Tensor,
        seq_len: Tensor,
        *,
        titles: Tensor | None = None,
        answers: Answers | None = None,
    ) -> Read:
        """Queries, views and intents of item vectors (B, L, D).

        Args:
            titles: (B, L, D) rows of `intent_table`, where they were looked up already.
            answers: for the gates, in place of what behaviour says; never given when the model serves.
        """
        mask = left_padding_mask(seq_len, item_seq.shape[1])
        local_view, global_view = self.encoder(vectors, item_seq, seq_len)
        behaviour, intents = Views(long=global_view, short=local_view), None
        if self.source is not None:
            if titles is None and self.source.reads_titles:
                titles = self._placed(self.localised_titles[item_seq])
            intents = self.source(behaviour, titles, mask)
        return Read(self.readout(*self._gated(behaviour, intents, answers)), behaviour, intents)

    def intents_of(self, texts: Tensor) -> Views:
        """Projected answers (n, 2, T), long and short view."""
        assert self.projection is not None
        long, short = self.projection(texts).unbind(1)
        return Views(long, short)

    def encode_vectors(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> Tensor:
        return self.read(vectors, item_seq, seq_len).queries[:, None]

    def encode_with_intents(
        self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor, titles: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        read = self.read(vectors, item_seq, seq_len, titles=titles)
        assert read.intents is not None, "has_intents"
        return read.queries[:, None], torch.stack(read.intents, dim=1)

    def read_sessions(self, item_seq: Tensor, seq_len: Tensor, answers: Answers | None = None) -> Read:
        """What the model makes of item_seq (B, L)."""
        return self.read(F.embedding(item_seq, self.item_table()), item_seq, seq_len, answers=answers)

    def _placed(self, titles: Tensor) -> Tensor:
        assert self.projection is not None, "a model with a source has a projection"
        return torch.where((titles != 0).any(-1, keepdim=True), self.projection(titles), 0.0)

    def _gated(self, behaviour: Views, intents: Views | None, answers: Answers | None) -> tuple[Tensor, Tensor]:
        """Local and global view, in the order of the readout, each times its gate where it has one."""
        scaled = behaviour._asdict()
        if self.gates:
            assert intents is not None, "gates read intents"
            told = intents._asdict()
            said = None if answers is None else self.intents_of(answers.texts)._asdict()
            for view, gate in self.gates.items():
                intent = told[view].detach()
                if answers is not None and said is not None:
                    intent = torch.where(answers.known[:, None], said[view], intent)
                scaled[view] = scaled[view] * gate(scaled[view], intent)
        return scaled["short"], scaled["long"]
