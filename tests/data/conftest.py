"""Tiny datasets for the data tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from models.data.dataset import Dataset, dataset_from_tables

MakeDataset = Callable[..., Dataset]


@pytest.fixture
def make_dataset() -> MakeDataset:
    """A dataset from one tuple per interaction; `columns` names its places, as in 'user_id item_id timestamp'."""

    def make(columns: str, *rows: tuple[Any, ...]) -> Dataset:
        names = columns.split()
        return dataset_from_tables(
            "tiny", pa.table({name: [row[at] for row in rows] for at, name in enumerate(names)}), None
        )

    return make
