"""Sessions that walk a cycle of items, with a split of their own, and runs on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from rich.console import Console

from models.config import RunConfig, parse_config
from models.data.folder import write_dataset

N_ITEMS = 12


@pytest.fixture(scope="session")
def quiet() -> Console:
    return Console(quiet=True)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tensors here are too small to share out, and threads that wait for each other spin."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 sessions of 3 to 6 clicks: each starts at its number and goes on to the next item; one in six validates, one
    tests. Each steps back once, so that sessions repeat items."""
    folder = tmp_path_factory.mktemp("walks") / "dataset"
    rows = []
    for session in range(36):
        items = [(session + step) % N_ITEMS for step in range(3 + session % 4)]
        items += [items[0]] if session % 2 else []
        part = {4: "valid", 5: "test"}.get(session % 6, "train")
        rows += [
            {"user_id": session, "session_id": session, "item_id": f"i{item:02}", "position": at, "split": part}
            for at, item in enumerate(items)
        ]
    write_dataset(folder, pa.Table.from_pylist(rows), None)
    return folder


@pytest.fixture(scope="session")
def config_of(walks: Path) -> Any:
    """A run of a session retriever on the walks; keyword arguments replace parts of sections."""

    def make(model: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **rest: Any) -> RunConfig:
        raw = {
            "name": "walks",
            "seed": 3,
            "data": {"dataset": str(walks), "split": "declared_sessions"},
            "model": {"kind": "session", "hidden_size": 8, "max_seq_len": 5, **(model or {})},
            "loss": {"kind": "full_softmax"},
            "train": {"batch_size": 16, "max_epochs": 2, "device": "cpu", **(train or {})},
            **rest,
        }
        return parse_config(raw, "run.toml")

    return make
