"""LLM vectors of items that came after the knowledge, from the texts and by the encoder that the knowledge records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console

from models.data.dataset import Dataset, Sequences
from models.errors import KnowledgeError
from models.knowledge.encoders import TextEncoder, encode_unique
from models.knowledge.prompts import ITEM_PROMPT, item_prompts
from models.knowledge.report import reporting

# Where `Dataset.item_titles` looks, besides the columns that the prompt quotes.
_TITLES: Final = ("item_id", "title", "generated_text_id")
_NOTHING_KNOWN: Final = "unknown"
_SHOWN: Final = 5


def new_item_vectors(
    items: pa.Table, provenance: Mapping[str, Any], encoder: TextEncoder, console: Console
) -> NDArray[np.float32]:
    """Vectors float32 (items, D) in the order of `items`, rounded to float16 as those of the knowledge are.

    Args:
        items: item_id, title and text columns; a column that the knowledge's own prompts could not quote is left out,
            because nothing trained on them has seen a text with it.
        provenance: knowledge.json of the knowledge the model was trained on.
        encoder: the one that made it, see `open_recorded`.

    Raises:
        KnowledgeError: items without any text (the message names them), another item prompt than today's, vectors that
            are unusable.
    """
    recorded = provenance["prompts"]["item"]
    if recorded["digest"] != ITEM_PROMPT.describe()["digest"]:
        raise KnowledgeError(
            f"the knowledge was built with item prompt {recorded['digest'][:12]}, this version writes "
            f"{str(ITEM_PROMPT.describe()['digest'])[:12]}: a new item's text would not be of the same form"
        )
    known = [name for name in items.column_names if name in (*_TITLES, *recorded["columns"])]
    texts = _prompts(items.select(known))
    with reporting(console, "new items", "tokens") as report:
        vectors = encode_unique(encoder, texts, report).vectors
    return vectors.astype(np.float16).astype(np.float32)


def as_catalogue(items: pa.Table) -> Dataset:
    """`items` as a dataset nobody has interacted with, rows in their order."""
    ids = tuple(items["item_id"].to_pylist())
    if "title" not in items.column_names:
        items = items.append_column("title", pa.nulls(len(ids), pa.string()))
    nothing = np.empty(0, np.int64)
    return Dataset(
        name="new items",
        item_ids=ids,
        user_ids=(),
        sequences=Sequences.from_lengths(nothing, nothing),
        timestamps=None,
        scenarios=None,
        scenario_names=(),
        session_ids=None,
        items=items,
        digest="",
    )


def _prompts(items: pa.Table) -> list[str]:
    catalogue = as_catalogue(items)
    try:
        prompts = item_prompts(catalogue)
    except KnowledgeError:  # none has a text
        prompts = [_NOTHING_KNOWN] * catalogue.n_items
    textless = [one for one, prompt in zip(catalogue.item_ids, prompts, strict=True) if prompt == _NOTHING_KNOWN]
    if textless:
        expected = [name for name in items.column_names if name not in _TITLES]
        raise KnowledgeError(
            f"{len(textless)} of {catalogue.n_items} items have no text ({_some(textless)}); "
            f"expected a title{' or one of ' + ', '.join(expected) if expected else ''}"
        )
    return prompts


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_SHOWN]) + (", …" if len(ids) > _SHOWN else "")
