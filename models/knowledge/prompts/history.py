"""Which events of a dataset a prompt may quote."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from models.data.dataset import Dataset
from models.data.sequences import Sequences
from models.data.splits import SPLITS, Split
from models.errors import KnowledgeError
from models.knowledge.prompts.template import Options


def training_events(dataset: Dataset, split: Split) -> Sequences:
    """Rows like `split.train`, but of places in `dataset.sequences.items` (counted from 0) instead of items.

    Prompts need it to know the scenario or session of a training event. A split is chosen by place and time and never
    by item, so it is drawn once more over a dataset in which every event has an item of its own.

    Raises:
        KnowledgeError: the split is not one of `SPLITS`, or was drawn from another dataset.
    """
    if split.name not in SPLITS:
        raise KnowledgeError(f"split '{split.name}' is unknown, expected one of {', '.join(SPLITS)}")
    places = Sequences(np.arange(dataset.n_interactions), dataset.sequences.offsets)
    events = SPLITS[split.name](dataclasses.replace(dataset, sequences=places)).train
    if not np.array_equal(dataset.sequences.items[events.items], split.train.items):
        raise KnowledgeError(f"split '{split.name}' was not drawn from dataset '{dataset.name}' as it is")
    return events


def chosen_users(dataset: Dataset, options: Options) -> list[int]:
    """Rows of the users that may be asked about; KnowledgeError names a wanted user the dataset lacks."""
    if options.users is None:
        return list(range(dataset.n_users))
    if foreign := sorted(options.users.difference(dataset.user_ids)):
        raise KnowledgeError(
            f"dataset '{dataset.name}': {len(foreign)} of {len(options.users)} users are unknown: "
            f"{', '.join(foreign[:3])}"
        )
    return [row for row, user in enumerate(dataset.user_ids) if user in options.users]


def titles_of(dataset: Dataset, longest: int) -> list[str]:
    """Titles by item index (row 0 ''), one line each, cut after `longest` characters.

    Raises:
        KnowledgeError: no item has a title.
    """
    titles = ["", *(re.sub(r"\s+", " ", title)[:longest] for title in dataset.item_titles())]
    if not any(titles):
        raise KnowledgeError(f"dataset '{dataset.name}': none of its {dataset.n_items} items has a title")
    return titles
