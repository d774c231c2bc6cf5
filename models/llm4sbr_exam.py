"""How LLM4SBR is judged: as every session retriever, and on answered prefixes of users that are held back.

answered_ranks.npz   users, cuts and 0-based ranks of the held-back prefixes: `behaviour`, and `cached` where gates read
                     answers; test_users: the user of each test case
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from models.contracts import Tested
from models.data.dataset import Dataset
from models.knowledge.intents import IntentKnowledge
from models.llm4sbr import LLM4SBR, Answers, Read
from models.metrics import metrics_of
from models.ranking import ranks_of
from models.sessions.answered import AnsweredSplit
from models.sessions.training import session_exam
from service.features import encode_sequences

RANKS = "answered_ranks.npz"
_BLOCK = 512


class IntentExam:
    """The session exam on the split without what is held back, and the held-back answered prefixes.

    These are ranked twice: from behaviour alone, as served, and with the language model's answers in the gates, which
    is what the paper does and a service could not.
    """

    def __init__(self, dataset: Dataset, parts: AnsweredSplit, knowledge: IntentKnowledge) -> None:
        self.dataset, self.parts, self.knowledge = dataset, parts, knowledge
        self.exam = session_exam(dataset, parts.split)
        self.criterion = self.exam.criterion

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Metrics of the next click; with a source of intents, also how near they come to validating answers."""
        found = self.exam.validate(model)
        assert isinstance(model, LLM4SBR)
        if model.source is None or not model.config.is_taught or not len(self.parts.validating):
            return found
        cosines = []
        for rows in _blocks(self.parts.validating):
            read, texts = self._read(model, rows)
            said = model.intents_of(texts)
            assert read.intents is not None
            cosines.append(
                torch.stack([F.cosine_similarity(*pair) for pair in zip(read.intents, said, strict=True)], dim=1)
            )
        long, short = torch.cat(cosines).mean(0).tolist()
        return {**found, "intent_cosine_long": long, "intent_cosine_short": short}

    def test(self, model: nn.Module, folder: Path, console: Console, n_negatives: int, negatives_seed: int) -> Tested:
        assert isinstance(model, LLM4SBR)
        tested = self.exam.test(model, folder, console, n_negatives, negatives_seed)
        rows = self.parts.held_back
        ranks = {"behaviour": self._ranks(model, rows, cached=False)}
        if model.gates:
            ranks["cached"] = self._ranks(model, rows, cached=True)
        users = self.knowledge.users[rows]
        arrays = {"users": users, "cuts": self.knowledge.cuts[rows], "test_users": self.parts.split.test.user_index}
        np.savez_compressed(folder / RANKS, **arrays, **ranks)  # type: ignore[arg-type]
        answered: dict[str, Any] = {
            "n": len(rows),
            "n_taught": len(self.parts.taught[: model.config.answers]) if model.config.is_taught else 0,
            **{name: metrics_of(found) for name, found in ranks.items()},
        }
        return Tested({**tested.report, "answered": answered}, tested.plots)

    @torch.no_grad()
    def _ranks(self, model: LLM4SBR, rows: NDArray[np.int64], *, cached: bool) -> NDArray[np.int64]:
        """0-based ranks of the clicks after the prefixes of `rows`, among the whole catalogue."""
        sequences, table = self.dataset.sequences, model.item_table()
        targets = sequences.items[sequences.offsets[self.knowledge.users[rows]] + self.knowledge.cuts[rows]]
        ranks = [np.empty(0, dtype=np.int64)]
        for places in _blocks(np.arange(len(rows))):
            read, _ = self._read(model, rows[places], cached=cached)
            scores = read.queries @ table.T
            scores[:, 0] = -torch.inf
            ranks.append(ranks_of(scores, torch.as_tensor(targets[places], device=table.device)).cpu().numpy())
        return np.concatenate(ranks)

    @torch.no_grad()
    def _read(self, model: LLM4SBR, rows: NDArray[np.int64], *, cached: bool = False) -> tuple[Read, Tensor]:
        """What the model makes of answered prefixes, and the vectors (n, 2, T) of their answers."""
        inputs, device = model.describe_inputs(), model.item_table().device
        prefixes = self.dataset.sequences.take(self.knowledge.users[rows]).prefixes(self.knowledge.cuts[rows])
        features = encode_sequences([prefix.tolist() for prefix in prefixes], inputs.max_seq_len, padding="left")
        item_seq, seq_len = (torch.as_tensor(part, device=device) for part in features)
        texts = torch.as_tensor(self.knowledge.vectors[rows], device=device)
        answers = Answers(texts, torch.ones(len(rows), dtype=torch.bool, device=device)) if cached else None
        return model.read_sessions(item_seq, seq_len, answers), texts


def _blocks(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
