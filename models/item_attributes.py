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
    values_before: NDArray[np.int64]  # the same, with one training interaction fewer of each item
    counts: NDArray[np.int64]  # (n_items + 1,) training interactions
    sizes: tuple[int, ...]  # values of each column, 0 included


def item_attributes(dataset: Dataset, split: Split) -> ItemAttributes:
    """category, brand, price (tenths of the items that have one) where known, and popularity (doublings) in training.

    Held-out interactions are not counted. An item that was taken in training has been counted for just that, which
    gives the label away and is not so of what is taken afterwards: a positive of training reads `values_before`.
    """
    columns: dict[str, NDArray[np.int64]] = {}
    for name in ("category", "brand"):
        if name in dataset.items.column_names:
            columns[name] = _numbered(dataset.items.column(name).to_pylist())
    if "price" in dataset.items.column_names:
        columns["price"] = _tenths(np.array(dataset.items.column("price").to_pylist(), dtype=np.float64))
    counts = np.bincount(split.train.items, minlength=dataset.n_items + 1)
    columns["popularity"] = _doublings(counts[1:])
    known = {name: values for name, values in columns.items() if values.any()}
    values = np.stack([np.concatenate([[0], column]) for column in known.values()], axis=1)
    before = values.copy()
    before[1:, -1] = _doublings(counts[1:] - 1)
    return ItemAttributes(tuple(known), values, before, counts, tuple(int(n) + 1 for n in values.max(0)))


def _doublings(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """1 of 0 and 1, 2 of 2 and 3, 3 of 4 to 7, and so on.

    None and one are the same: of what nobody took, a data set names only what is held out.
    """
    return 1 + np.floor(np.log2(counts.clip(min=1))).astype(np.int64)


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
