"""A real training run, small, and its artefact."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from export.artefact import write_artefact
from export.run import draft_of
from models.config import RunConfig
from models.data.dataset import read_dataset
from models.data.folder import write_dataset
from models.data.splits import leave_one_out
from models.evaluate import evaluate
from models.knowledge.encoders import HashEncoder
from models.knowledge.store import build_knowledge
from models.runs import Run, load_run
from models.train import train

N_ITEMS, N_USERS = 24, 30


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 users walk a 24-item cycle for 4 to 8 steps: user n starts at item n."""
    folder = tmp_path_factory.mktemp("data") / "cycle"
    rows = [
        {"user_id": f"u{user:02}", "item_id": f"i{(user + step) % N_ITEMS:02}", "timestamp": 1000 + step}
        for user in range(N_USERS)
        for step in range(4 + user % 5)
    ]
    items = [
        {"item_id": f"i{n:02}", "title": f"thing {n}" if n else None, "category": "odd" if n % 2 else "even"}
        for n in range(N_ITEMS)
    ]
    write_dataset(folder, pa.Table.from_pylist(rows), pa.Table.from_pylist(items))
    return folder


@pytest.fixture(scope="session")
def run_folder(dataset_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of a dual-view LLM-ESR, evaluated."""
    dataset = read_dataset(dataset_folder)
    knowledge = tmp_path_factory.mktemp("knowledge") / "hashed"
    build_knowledge(dataset, leave_one_out(dataset), knowledge, HashEncoder())
    config = RunConfig.model_validate(
        {
            "name": "cycle",
            "seed": 3,
            "data": {"dataset": dataset_folder, "knowledge": knowledge},
            "model": {"hidden_size": 8, "max_seq_len": 5, "n_blocks": 1, "n_teachers": 3},
            "train": {"batch_size": 8, "max_epochs": 2, "device": "cpu"},
            "loss": {"kind": "sampled_softmax", "n_negatives": 8},
        }
    )
    folder = tmp_path_factory.mktemp("runs") / "cycle"
    quiet = Console(quiet=True)
    train(config, folder, quiet)
    evaluate(folder, quiet)
    return folder


@pytest.fixture(scope="session")
def run(run_folder: Path) -> Run:
    return load_run(run_folder)


@pytest.fixture(scope="session")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's artefact."""
    return write_artefact(draft_of(run), tmp_path_factory.mktemp("artefacts"))
