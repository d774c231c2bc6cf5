"""Why these items: each one's winning query in words, and the part of the history that speaks most for it.

Of one model version, from its artefact alone. Nothing is said that the model or the artefact does not hold: a part that
is not known is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.artefact.directory import Artefact
from service.features.diversity import topics_of
from service.features.explanation import heaviest_item, nearest_phrases, parts_of_score, unit_rows, winning_queries
from service.inference.reading import Reading


@dataclass(frozen=True, slots=True)
class Interest:
    """What an item's winning query is called: an LLM's phrase and its cosine, or without one the item's category."""

    text: str
    similarity: float | None


@dataclass(frozen=True, slots=True)
class Because:
    """The item of the history that gives most of the score through the winning query, and its share."""

    item_index: int
    weight: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """What speaks for one item."""

    query: int  # 0-based
    interest: Interest | None
    because: Because | None


class Explainer:
    """Explains lists of one model version."""

    def __init__(self, artefact: Artefact) -> None:
        self._items, self._categories = artefact.items, artefact.categories
        self._phrases = artefact.phrases
        self._directions = None if artefact.phrases is None else unit_rows(artefact.phrases.vectors)

    def explain(self, reading: Reading, history: Sequence[int], items: NDArray[np.int64]) -> list[Explanation]:
        """One explanation for each of the items.

        Args:
            reading: of the history; history: the item indices that were read, oldest first.
        """
        if not len(items):
            return []
        phrases, rows = self._phrases_of(reading.queries), self._items[list(history)]
        return [
            Explanation(
                query, phrases[query] or self._category_of(item), self._because_of(reading, history, rows, query, item)
            )
            for query, item in zip(self._winners(reading, items).tolist(), items.tolist(), strict=True)
        ]

    def topics(self, reading: Reading, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Equal numbers where items speak of the same: see `topics_of`."""
        categories = [self._categories[item] for item in items.tolist()]
        return topics_of(categories, self._winners(reading, items))

    def _winners(self, reading: Reading, items: NDArray[np.int64]) -> NDArray[np.int64]:
        return winning_queries(reading.queries, self._items[items])

    def _phrases_of(self, queries: NDArray[np.float32]) -> list[Interest | None]:
        if self._phrases is None or self._directions is None:
            return [None] * len(queries)
        nearest, cosines = nearest_phrases(queries, self._directions)
        return [
            Interest(self._phrases.texts[row], cosine) if cosine >= self._phrases.similarity_floor else None
            for row, cosine in zip(nearest.tolist(), cosines.tolist(), strict=True)
        ]

    def _category_of(self, item: int) -> Interest | None:
        category = self._categories[item]
        return Interest(category, None) if category else None

    def _because_of(
        self, reading: Reading, history: Sequence[int], rows: NDArray[np.float32], query: int, item: int
    ) -> Because | None:
        """`rows` are those of the history."""
        if reading.attention is None or not history:
            return None
        parts = parts_of_score(reading.attention[query], rows, self._items[item])
        return Because(*heaviest_item(history, parts))
