"""Small datasets written by hand and one exported MiniLM for the whole run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fake_endpoint import FakeEndpoint
from knowledge_fakes import MakeDataset
from rich.console import Console

from models.data.dataset import Dataset, dataset_from_tables
from models.knowledge.minilm import MiniLM


@pytest.fixture
def make_dataset() -> MakeDataset:
    """Dataset from {user: [items, oldest first]} and {item: title or columns}."""

    def make(
        histories: Mapping[str, Sequence[str]], items: Mapping[str, Any], digest: str = "d1", name: str = "hand"
    ) -> Dataset:
        users = [user for user, history in histories.items() for _ in history]
        chosen = [item for history in histories.values() for item in history]
        positions = [position for history in histories.values() for position, _ in enumerate(history)]
        rows = [
            {"item_id": item, **(columns if isinstance(columns, dict) else {"title": columns})}
            for item, columns in items.items()
        ]
        names = list(dict.fromkeys(key for row in rows for key in row))
        return dataset_from_tables(
            name,
            pa.table({"user_id": users, "item_id": chosen, "position": pa.array(positions, pa.int64())}),
            pa.table({key: [row.get(key) for row in rows] for key in names}),
            digest=digest,
        )

    return make


@pytest.fixture
def five_items(make_dataset: MakeDataset) -> Dataset:
    """Five items and four users; u4 chose one item only, so leave-one-out leaves it in training."""
    return make_dataset(
        {"u1": ["a", "b", "c"], "u2": ["b", "a", "d", "e"], "u3": ["a", "b", "e", "d"], "u4": ["c"]},
        {"a": "red lamp", "b": "blue lamp", "c": "green chair", "d": "red chair", "e": "oak table"},
    )


@pytest.fixture
def silent() -> Console:
    return Console(quiet=True)


@pytest.fixture(scope="session")
def minilm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def minilm(minilm_cache: Path) -> MiniLM:
    return MiniLM(cache=minilm_cache, threads=2)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEndpoint]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # a proxy of the machine would not reach it
    endpoint = FakeEndpoint()
    yield endpoint
    endpoint.close()
