"""What is known of an item beside its id, as small whole numbers: a ranker's features of cold items too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data.dataset import Dataset
from models.data.splits import Split

N_PRICE_BINS = 10


@dataclass(frozen=True, eq=False)
class ItemAttributes:
    """Row-aligned with the item table; row 0 is padding, and value 0 of a column is unknown."""

    names: tuple[str, ...]
    values: NDArray[np.int64]  # (n_items + 1, len(names))
    sizes: tuple[int, ...]  # values of each column, 0 included


def item_attributes(dataset: Dataset, split: Split) -> ItemAttributes:
    """category, brand, price (tenths of the items that have one) where known, and popularity (doublings) in training.

    Held-out interactions are not counted.
    """
    columns: dict[str, NDArray[np.int64]] = {}
    for name in ("category", "brand"):
        if name in dataset.items.column_names:
            columns[name] = _numbered(dataset.items.column(name).to_pylist())
    if "price" in dataset.items.column_names:
        columns["price"] = _tenths(np.array(dataset.items.column("price").to_pylist(), dtype=np.float64))
    counts = np.bincount(split.train.items, minlength=dataset.n_items + 1)[1:]
    columns["popularity"] = 1 + np.ceil(np.log2(counts + 1)).astype(np.int64)
    known = {name: values for name, values in columns.items() if values.any()}
    values = np.stack([np.concatenate([[0], column]) for column in known.values()], axis=1)
    return ItemAttributes(tuple(known), values, tuple(int(n) + 1 for n in values.max(0)))


def _numbered(texts: list[Any]) -> NDArray[np.int64]:
    """1.. in ascending order of the texts, 0 where there is none."""
    number = {text: place for place, text in enumerate(sorted({str(text) for text in texts if text}), start=1)}
    return np.array([number[str(text)] if text else 0 for text in texts], dtype=np.int64)


def _tenths(prices: NDArray[np.float64]) -> NDArray[np.int64]:
    known = np.isfinite(prices)
    if not known.any():
        return np.zeros(len(prices), dtype=np.int64)
    edges = np.quantile(prices[known], np.arange(1, N_PRICE_BINS) / N_PRICE_BINS)
    return np.where(known, 1 + np.searchsorted(edges, prices, side="right"), 0)
