"""Full-catalogue ranking of held-out targets: the one evaluation that counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.contracts import RetrieverModel, ScoringModel, items_read
from models.data.dataset import Sequences
from models.data.splits import EvalCases
from service.features import encode_sequences

# Scores of one block: 16M floats are 64 MB, whatever the catalogue.
_BLOCK_SCORES = 16_000_000


@dataclass(frozen=True)
class Ranking:
    """Where each target landed (0 = first), and the best `top` items of each of n cases."""

    ranks: NDArray[np.int64]  # by target
    items: NDArray[np.int64]  # (n, top) item indices, best first
    scores: NDArray[np.float32]  # (n, top)


@torch.no_grad()
def rank_cases(
    model: RetrieverModel | ScoringModel,
    cases: EvalCases,
    *,
    filter_seen: bool = True,
    top: int = 20,
    on_progress: Callable[[int], None] = lambda n: None,
) -> Ranking:
    """Rank every case's targets, each among all items.

    A target's rank is the number of items with a higher score, plus equal ones with a lower item index. Items of the
    case's input are taken out when `filter_seen`; a target among them counts as a miss (it is never dropped).

    Args:
        model: in eval mode; its device is used.
        top: how many of the best items to keep for each case; 0 keeps none.
        on_progress: called with the number of cases done since the last call.
    """
    score, n_items = _scorer(model)
    top = min(top, n_items)
    n = len(cases)
    ranks = np.empty(len(cases.targets), dtype=np.int64)
    starts = np.arange(n) if cases.n_targets is None else np.cumsum(cases.n_targets) - cases.n_targets
    items = np.empty((n, top), dtype=np.int64)
    top_scores = np.empty((n, top), dtype=np.float32)
    order = np.argsort(cases.inputs.lengths, kind="stable")  # batches of similar length
    block = max(1, min(512, _BLOCK_SCORES // (n_items + 1)))
    for start in range(0, n, block):
        rows = order[start : start + block]
        scores = score([cases.inputs[row] for row in rows])
        if filter_seen:
            at, seen = _flat(cases.inputs, rows)
            scores[at, seen] = -torch.inf
        # The first target of every case, then the second of those that have two, and so on.
        for number in range(1 if cases.n_targets is None else int(cases.n_targets[rows].max())):
            asked = np.arange(len(rows)) if cases.n_targets is None else np.flatnonzero(cases.n_targets[rows] > number)
            at_target = starts[rows[asked]] + number
            targets = torch.as_tensor(cases.targets[at_target], device=scores.device)
            asked_scores = scores if len(asked) == len(rows) else scores[torch.as_tensor(asked, device=scores.device)]
            ranks[at_target] = ranks_of(asked_scores, targets).cpu().numpy()
        if top:
            top_scores[rows], items[rows] = _top(scores, top)
        on_progress(len(rows))
    return Ranking(ranks, items, top_scores)


@torch.no_grad()
def queries_of(model: RetrieverModel, cases: EvalCases) -> NDArray[np.float32]:
    """float32 (n, Q, D): what the model asks for after each case's input."""
    inputs, table = model.describe_inputs(), model.item_table()
    found = np.empty((len(cases), inputs.n_queries, inputs.dim), dtype=np.float32)
    order = np.argsort(cases.inputs.lengths, kind="stable")  # batches of similar length
    for start in range(0, len(order), 512):
        rows = order[start : start + 512]
        found[rows] = _encode(model, table, [cases.inputs[row] for row in rows]).cpu().numpy()
    return found


@torch.no_grad()
def rank_against(model: RetrieverModel, cases: EvalCases, negatives: NDArray[np.int64]) -> NDArray[np.int64]:
    """0-based ranks of the targets among their own negatives (n, m) alone; a tie counts against the target.

    Each case has one target.
    """
    table = model.item_table()
    n = len(cases.targets)
    ranks = np.empty(n, dtype=np.int64)
    order = np.argsort(cases.inputs.lengths, kind="stable")
    for start in range(0, n, 512):
        rows = order[start : start + 512]
        queries = _encode(model, table, [cases.inputs[row] for row in rows])
        candidates = torch.as_tensor(
            np.concatenate([cases.targets[rows, None], negatives[rows]], axis=1), device=table.device
        )
        scores = torch.einsum("bqd,bcd->bqc", queries, table[candidates]).amax(1)
        ranks[rows] = (scores[:, 1:] >= scores[:, :1]).sum(1).cpu().numpy()
    return ranks


def draw_negatives(cases: EvalCases, n_items: int, n_negatives: int, seed: int) -> NDArray[np.int64]:
    """int64 (n, n_negatives): uniform, distinct, none in the case's input or its target. Same seed, same draw.

    Raises:
        ValueError: a case has fewer than `n_negatives` items left to draw from.
    """
    rng = np.random.default_rng(seed)
    drawn = np.empty((len(cases.targets), n_negatives), dtype=np.int64)
    for row, target in enumerate(cases.targets):
        taken = {*cases.inputs[row].tolist(), int(target)}
        if n_items - len(taken) < n_negatives:
            raise ValueError(f"case {row}: {n_items - len(taken)} items are left, {n_negatives} negatives were asked")
        found: dict[int, None] = {}
        while len(found) < n_negatives:
            for item in rng.integers(1, n_items + 1, n_negatives).tolist():
                if item not in taken and len(found) < n_negatives:
                    found[item] = None
        drawn[row] = list(found)
    return drawn


def _encode(model: RetrieverModel, table: Tensor, histories: list[NDArray[np.int64]]) -> Tensor:
    inputs = model.describe_inputs()
    features = encode_sequences(
        [history.tolist() for history in histories],
        inputs.max_seq_len,
        padding=inputs.padding,
        length=inputs.fixed_length,
    )
    item_seq = torch.as_tensor(features.item_seq, device=table.device)
    seq_len = torch.as_tensor(features.seq_len, device=table.device)
    return model.encode_vectors(table[items_read(model, item_seq)], item_seq, seq_len)


def _scorer(model: RetrieverModel | ScoringModel) -> tuple[Callable[[list[NDArray[np.int64]]], Tensor], int]:
    """What gives (B, N) scores of histories, -inf for padding, and n_items."""
    if isinstance(model, ScoringModel):
        return model.score_histories, model.n_items
    table = model.item_table()
    return lambda histories: _score(model, table, histories), table.shape[0] - 1


def _score(model: RetrieverModel, table: Tensor, histories: list[NDArray[np.int64]]) -> Tensor:
    """(B, N) scores over the table; padding's column is -inf."""
    queries = _encode(model, table, histories)  # (B, Q, D)
    # One flat product: a batched one is twice as slow on a CPU.
    scores = (queries.flatten(0, 1) @ table.T).unflatten(0, queries.shape[:2]).amax(1)
    scores[:, 0] = -torch.inf
    return scores


def ranks_of(scores: Tensor, targets: Tensor) -> Tensor:
    """0-based rank (B,) of each target (B,) in its row of scores (B, N); of equals the lower item index is first."""
    own = scores.gather(1, targets[:, None])
    ranks = _count(scores > own)
    for row in torch.nonzero(_count(scores >= own) > ranks + 1)[:, 0].tolist():  # rare: another item has this score
        ranks[row] += (scores[row, : targets[row]] == own[row]).sum()
    return torch.where(own[:, 0] == -torch.inf, scores.shape[1], ranks)  # filtered out: a miss at any k


def _count(where: Tensor) -> Tensor:
    """int64 (B,) true entries per row; summing floats is five times faster than summing bools, exact to 2^24."""
    return where.float().sum(1).long()


def _top(scores: Tensor, top: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    values, indices = scores.topk(top, dim=1)
    found, at = values.cpu().numpy(), indices.cpu().numpy()
    order = np.lexsort((at, -found), axis=1)  # equal scores: the lower item index first
    return np.take_along_axis(found, order, 1), np.take_along_axis(at, order, 1)


def _flat(sequences: Sequences, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(row within the block, item) pairs of the given rows."""
    lengths = sequences.lengths[rows]
    at = np.repeat(np.arange(len(rows)), lengths)
    return at, np.concatenate([sequences[row] for row in rows]) if len(rows) else np.empty(0, dtype=np.int64)
