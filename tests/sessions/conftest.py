"""Sessions that walk a cycle of items, with a split of their own, and runs on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from intent_fakes import answers_about
from rich.console import Console

from models.config import RunConfig, parse_config
from models.data.dataset import read_dataset
from models.data.folder import write_dataset
from models.knowledge.encoders import HashEncoder
from models.knowledge.intents import build_intents

N_ITEMS = 12


@pytest.fixture(scope="session")
def quiet() -> Console:
    return Console(quiet=True)


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


@pytest.fixture(scope="session")
def tours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 sessions of 4 to 8 clicks, each a whole user, that walk a cycle of 12 items with titles."""
    folder = tmp_path_factory.mktemp("tours") / "dataset"
    rows = [
        {"user_id": f"u{user:02}", "item_id": f"i{(user + at) % N_ITEMS:02}", "position": at}
        for user in range(60)
        for at in range(4 + user % 5)
    ]
    items = [{"item_id": f"i{item:02}", "title": f"thing{item} of colour{item // 3}"} for item in range(N_ITEMS)]
    write_dataset(folder, pa.Table.from_pylist(rows), pa.Table.from_pylist(items))
    return folder


@pytest.fixture(scope="session")
def tour_intents(tours: Path, tmp_path_factory: pytest.TempPathFactory, quiet: Console) -> Path:
    """Answers about the first clicks of four sessions in five: two clicks, or all but two."""
    dataset, folder = read_dataset(tours), tmp_path_factory.mktemp("tours") / "knowledge"
    lengths = dict(zip(dataset.user_ids, dataset.sequences.lengths.tolist(), strict=True))
    cuts = {user: length - 2 if at % 4 == 0 else 2 for at, (user, length) in enumerate(lengths.items()) if at % 5}
    build_intents(dataset, answers_about(dataset, cuts), folder, HashEncoder(), quiet, r=2)
    return folder


@pytest.fixture(scope="session")
def taught_config(tours: Path, tour_intents: Path) -> Any:
    """A run of LLM4SBR on the tours; keyword arguments replace parts of sections."""

    def make(model: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **data: Any) -> RunConfig:
        paths = {"dataset": str(tours), "split": "shuffled_sessions", "knowledge": str(tour_intents)}
        small = {"kind": "llm4sbr", "hidden_size": 8, "max_seq_len": 5, "answered_batch": 8}
        raw = {
            "name": "tours",
            "seed": 3,
            "data": {**paths, **data},
            "model": {**small, **(model or {})},
            "loss": {"kind": "full_softmax"},
            "train": {"batch_size": 32, "max_epochs": 2, "device": "cpu", **(train or {})},
        }
        return parse_config(raw, "run.toml")

    return make
