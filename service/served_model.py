"""A loaded model as the service uses it: its artefact, its searches and what the lower tiers need of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.artefact.directory import Artefact
from service.artefact.manifest import Manifest
from service.explainer import Explainer
from service.fallback import PopularItems
from service.features.sequence import foreign_items
from service.inference.engine import Operation, ResultRows, Row
from service.inference.loader import LoadedRetriever
from service.inference.ranker import RankRow
from service.inference.similarity import ItemSimilarity


class ServedModel:
    """One loaded artefact and all that the service derives from it.

    Args:
        loaded: with a retriever it can `search`; an artefact alone is a model that runs in another process.
    """

    def __init__(self, loaded: LoadedRetriever | Artefact, *, load_s: float = 0.0) -> None:
        here = None if isinstance(loaded, Artefact) else loaded
        self.artefact: Artefact = loaded if isinstance(loaded, Artefact) else loaded.artefact
        self.manifest: Manifest = self.artefact.manifest
        self.name, self.version = self.manifest.name, self.manifest.version
        self.sha256 = hashlib.sha256((self.artefact.path / "manifest.json").read_bytes()).hexdigest()
        self.device = here.retriever.provider if here else "another process"
        self.top_k = here.backend if here else "another process"
        self.top_k_recall = here.recall if here else None
        self._counts = here.topk if here else None
        self.load_s = load_s
        self.popular = PopularItems(self.artefact)
        self._outside: dict[tuple[str, ...], NDArray[np.int64]] = {(): np.empty(0, np.int64)}
        self.explainer = Explainer(self.artefact)
        if here:
            self._retriever, self._topk = here.retriever, here.topk
            self._similarity = ItemSimilarity(self.artefact.items, self.artefact.available)

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def n_items(self) -> int:
        return self.manifest.n_items

    @property
    def top_k_fallbacks(self) -> int:
        """Answers that the top-k backend left to a slower one, because it could not certify them."""
        return self._counts.fallbacks if self._counts else 0

    def outside(self, categories: tuple[str, ...]) -> NDArray[np.int64]:
        """Indices of the items that are in none of these categories, nor below one of them; of none, no item."""
        found = self._outside.get(categories)
        if found is None:
            inside = [is_within(category, categories) for category in self.artefact.categories]
            found = self._outside[categories] = np.flatnonzero(~np.array([True, *inside[1:]]))
        return found

    def fault_of(self, operation: Operation, row: Row) -> str | None:
        """What is wrong with a row that would fail every row of its batch; None where nothing is."""
        if operation == "rank" or isinstance(row, RankRow):
            return "candidates for a retriever"
        return foreign_items(row, self.n_items)

    def search(
        self, operation: Operation, rows: Sequence[Sequence[int]], k: int, excluded: Sequence[NDArray[np.int64]]
    ) -> ResultRows:
        """Per row the best items: after that history by the model's score, or most like those seeds by cosine."""
        if operation == "similar":
            return self._similarity.search(rows, k, excluded)
        if operation == "explain":
            readings = self._retriever.read(rows)
            found = self._topk.search(np.stack([reading.queries for reading in readings]), k, excluded)
            return [(*best, reading) for best, reading in zip(found, readings, strict=True)]
        return self._topk.search(self._retriever.encode(rows), k, excluded)


def is_within(category: str | None, categories: Sequence[str]) -> bool:
    """Whether a category is one of these or lies below one, as `Skin Care > Face` below `Skin Care`."""
    return category is not None and any(category == each or category.startswith(f"{each} > ") for each in categories)
