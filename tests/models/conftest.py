"""A tiny dataset whose items follow a cycle, knowledge of it from the hash encoder, and models on both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from models.config import RunConfig
from models.data.dataset import read_dataset
from models.data.folder import write_dataset
from models.data.splits import leave_one_out
from models.knowledge.encoders import HashEncoder
from models.knowledge.store import build_knowledge

N_ITEMS, N_USERS = 12, 24


@pytest.fixture(scope="session")
def quiet() -> Console:
    return Console(quiet=True)


@pytest.fixture(scope="session")
def cycle(tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    """24 users walk a 12-item cycle for 5 to 8 steps: the next item is always the next number."""
    folder = tmp_path_factory.mktemp("cycle") / "dataset"
    rows = [
        {"user_id": f"u{user:02}", "item_id": f"i{(user + step) % N_ITEMS:02}", "timestamp": 1000 + step}
        for user in range(N_USERS)
        for step in range(5 + user % 4)
    ]
    items = [
        {"item_id": f"i{n:02}", "title": f"thing number {n}", "category": "odd" if n % 2 else "even"} for n in range(12)
    ]
    write_dataset(folder, pa.Table.from_pylist(rows), pa.Table.from_pylist(items))
    return folder


@pytest.fixture(scope="session")
def cycle_knowledge(cycle: Path, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    dataset = read_dataset(cycle)
    folder = tmp_path_factory.mktemp("cycle") / "knowledge"
    build_knowledge(dataset, leave_one_out(dataset), folder, HashEncoder())
    return folder


@pytest.fixture(scope="session")
def make_config(cycle: Path, cycle_knowledge: Path) -> Any:
    """A run on the cycle; keyword arguments replace sections."""

    def make(model: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **rest: Any) -> RunConfig:
        return RunConfig.model_validate(
            {
                "name": "cycle",
                "seed": 3,
                "data": {"dataset": cycle, "knowledge": cycle_knowledge},
                "model": {"hidden_size": 8, "max_seq_len": 6, "dropout": 0.0, "n_teachers": 3, **(model or {})},
                "train": {"batch_size": 8, "max_epochs": 3, "device": "cpu", **(train or {})},
                "loss": {"kind": "sampled_softmax", "n_negatives": 8},
                **rest,
            }
        )

    return make
