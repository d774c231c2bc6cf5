"""EIMF's explicit module (ESIM, arXiv:2411.09410): an LLM's interests of a typical user teach; it is never served.

B batch, M interests of a typical user, T width of projected texts, D width of the retriever, N n_items + 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import EIMFConfig
from models.layers import MASKED

if TYPE_CHECKING:
    from models.knowledge.interests import InterestKnowledge

TEMPERATURE = 0.1  # sheet, section 4


class Meant(NamedTuple):
    """The LLM interest that a target speaks of."""

    vectors: Tensor  # (B, T) after self-attention
    rows: Tensor  # (B,) which interest of which typical user: equal rows are the same text
    known: Tensor  # bool (B,): the user inherits interests, and the target has a title


class ESIM(nn.Module):
    """Inherited interests, and two losses that carry them to the retriever.

    Repairs of the published code (sheet, section 8): item texts stay the projected titles (frozen), one projection was
    fitted for all texts, padded interests are neither read nor chosen, users with the same interest and equal targets
    are no negatives of each other.
    """

    item_texts: Tensor
    interest_texts: Tensor
    interest_mask: Tensor
    exemplar_of_user: Tensor

    def __init__(self, config: EIMFConfig, knowledge: InterestKnowledge) -> None:
        super().__init__()
        self.texts = knowledge.texts
        texts = knowledge.projected(config.text_size)
        width, text = config.hidden_size, config.text_size
        for name, values in (
            ("item_texts", texts.items),  # (N, T), row 0 and items without a title zero
            ("interest_texts", texts.interests),  # (E + 1, M, T), row 0 for users without interests
            ("interest_mask", texts.mask),  # (E + 1, M)
            ("exemplar_of_user", texts.exemplar_of_user),  # (users,) rows of the above
        ):
            self.register_buffer(name, torch.from_numpy(values), persistent=False)
        self.query, self.key, self.value = (nn.Linear(text, text) for _ in range(3))
        self.interest_to_item = nn.Linear(text, width)  # W_a of the sheet
        self.title_to_item = nn.Linear(text, width)  # W_b

    def attend(self, texts: Tensor, mask: Tensor) -> Tensor:
        """(B, M, T): interests (B, M, T) seen together; one head, no residual, padding (mask false) not read."""
        scores = self.query(texts) @ self.key(texts).transpose(1, 2) / math.sqrt(texts.shape[-1])
        mixed: Tensor = (scores + torch.where(mask, 0.0, MASKED)[:, None]).softmax(-1) @ self.value(texts)
        return mixed

    def meant(self, users: Tensor, targets: Tensor) -> Meant:
        """The inherited interest of each user (B,) that is nearest to the title of its target (B,)."""
        exemplars = self.exemplar_of_user[users]
        mask = self.interest_mask[exemplars]
        attended = self.attend(self.interest_texts[exemplars], mask)
        titles = self.item_texts[targets]
        scores = (attended @ titles[..., None])[..., 0].masked_fill(~mask, MASKED)
        best = scores.argmax(1)
        known = mask.any(1) & (titles != 0).any(1)
        chosen = attended[torch.arange(len(best), device=best.device), best]
        return Meant(chosen, exemplars * mask.shape[1] + best, known)

    def alignment(self, queries: Tensor, rows: Tensor, targets: Tensor, meant: Meant) -> Tensor:
        """Scalar L_ma of the sheet: users' queries (B, D) near their interest, items' rows (B, D) near their title."""
        known = meant.known
        if not known.any():
            return queries.new_zeros(())
        queries, rows, targets = queries[known], rows[known], targets[known]
        interests = self.interest_to_item(meant.vectors[known])
        titles = self.title_to_item(self.item_texts[targets])
        return (
            0.4 * info_nce(queries, interests, meant.rows[known])
            + 0.4 * info_nce(rows, titles, targets)
            + 0.1 * (1 - F.cosine_similarity(queries, interests)).mean()
            + 0.1 * (1 - F.cosine_similarity(rows, titles)).mean()
        )

    @torch.no_grad()
    def phrases(self) -> Tensor:
        """(n, D): every interest alone, in the space of the item table, in the order of `texts`."""
        real = self.interest_texts[self.interest_mask]  # (P, T)
        alone = self.attend(real[:, None], torch.ones(len(real), 1, dtype=torch.bool, device=real.device))
        placed: Tensor = self.interest_to_item(alone[:, 0])
        return placed


def info_nce(left: Tensor, right: Tensor, same: Tensor) -> Tensor:
    """Mean of -log( exp(cos(left_i, right_i) / t) / sum_j exp(cos(left_i, right_j) / t) ), t = 0.1.

    Args:
        left, right: (n, D).
        same: (n,) rows of equal value say the same, so they are no negatives of each other.
    """
    cosine = F.normalize(left, dim=1) @ F.normalize(right, dim=1).T / TEMPERATURE
    twin = (same[:, None] == same[None, :]) & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    return F.cross_entropy(cosine.masked_fill(twin, float("-inf")), torch.arange(len(same), device=same.device))
