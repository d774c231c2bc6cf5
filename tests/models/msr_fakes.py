"""A small shop with impressions, two shops without, and knowledge of their users from words alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from models.config import RunConfig
from models.data.dataset import Dataset, read_dataset
from models.data.folder import write_dataset
from models.data.sample_shop import make_shop
from models.data.splits import SPLITS
from models.knowledge.encoders import HashEncoder
from models.knowledge.meta import build_meta, usable_users
from models.knowledge.meta_command import told_by_prompts

DAY = 86_400


def small_shop(folder: Path) -> Path:
    """60 shoppers and 40 items of the sample shop, impressions included."""
    shop = make_shop(seed=3, n_users=60, n_items=40)
    write_dataset(folder, shop.interactions, shop.items, impressions=shop.impressions)
    return folder


def two_shops(folder: Path, n_users: int = 6) -> Path:
    """Users who buy books on even days and tools on odd ones, one a day, four of each; 12 items of each shop."""
    rows = [
        {
            "user_id": f"u{user}",
            "item_id": f"{shop}:{(3 * user + step) % 12:02}",
            "timestamp": (2 * step + place) * DAY,
            "scenario": shop,
        }
        for user in range(n_users)
        for step in range(4)
        for place, shop in enumerate(("books", "tools"))
    ]
    items = [
        {"item_id": f"{shop}:{n:02}", "title": f"{shop} thing {n}", "category": f"{shop} {n % 3}"}
        for shop in ("books", "tools")
        for n in range(12)
    ]
    write_dataset(folder, pa.Table.from_pylist(rows), pa.Table.from_pylist(items))
    return folder


def shop_knowledge(dataset: Dataset, split: str, folder: Path, **more: Any) -> Path:
    """Vectors of the prompts themselves, by the encoder for tests."""
    split_of = SPLITS[split](dataset)
    usable = usable_users(dataset, split_of, dataset, split_of)
    quiet = Console(quiet=True)
    told = told_by_prompts(dataset, split_of)
    build_meta(dataset, split_of, told, usable, folder, HashEncoder(), quiet, **{"future_visible": False, **more})
    return folder


def msr_config(dataset: Path, knowledge: Path | None, split: str = "global_time", **model: Any) -> RunConfig:
    sizes = {"embedding_size": 4, "width": 6, "hidden_sizes": [8, 4], "tower_size": 4, "expert_size": 4, "z_size": 5}
    small = {**sizes, "max_seq_len": 5, "n_negatives": 2, "n_test_negatives": 3, "dropout": 0.0}
    return RunConfig.model_validate(
        {
            "name": "msr",
            "seed": 5,
            "data": {"dataset": dataset, "split": split, **({"knowledge": knowledge} if knowledge else {})},
            "model": {"kind": "llm4msr", **small, **model},
            "train": {"batch_size": 64, "max_epochs": 3, "device": "cpu", "learning_rate": 5e-3},
        }
    )


def read(folder: Path) -> Dataset:
    return read_dataset(folder)
