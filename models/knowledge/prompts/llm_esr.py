"""The sentences an encoder reads about every item and every user, after LLM-ESR (arXiv:2405.20646), section 3.

Departures from the paper, each because the default encoder is a small one that reads 256 word pieces:
- the question stands before a user's titles and the titles run newest first, so that the cut takes the oldest;
- an attribute that is not known is left out, since a mean over word pieces would make items alike that share "unknown".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from models.data.dataset import Dataset
from models.data.sequences import Sequences
from models.data.splits import Split
from models.errors import KnowledgeError
from models.knowledge.prompts.history import chosen_users
from models.knowledge.prompts.template import Options, Paper, PromptTemplate, Question, sampled

# The columns an item prompt quotes, in this order. A list of what is text about the item itself: other columns may be
# codes, addresses, or (as semantic ids) built from the interactions that are held out.
ITEM_COLUMNS: Final = (
    "brand",
    "price",
    "year",
    "category",
    "directors",
    "cast",
    "features",
    "description",
    "plot",
    "llm_description",
)
MAX_ATTRIBUTE_CHARS: Final = 2048  # paper: features and description are cut at 2,048 characters
MAX_ITEM_CHARS: Final = 4095  # paper, Beauty: whole prompt
MAX_HISTORY_CHARS: Final = 8000  # paper: the newest 8,000 characters of the history


ITEM_PROMPT: Final = PromptTemplate(
    text="{title}. {attribute}: {value}. ...",
    source="LLM-ESR (arXiv:2405.20646), section 3, item prompt; unknown attributes left out",
    limits=(
        ("columns", list(ITEM_COLUMNS)),
        ("max_attribute_chars", MAX_ATTRIBUTE_CHARS),
        ("max_chars", MAX_ITEM_CHARS),
        ("without_text", "unknown"),
    ),
)
USER_PROMPT: Final = PromptTemplate(
    text="What does a customer like who chose these, newest first: {title}; {title}; ...",
    source="LLM-ESR (arXiv:2405.20646), section 3, user prompt; question first, newest titles first",
    limits=(("max_history_chars", MAX_HISTORY_CHARS), ("without_text", "")),
)


def item_prompts(dataset: Dataset) -> list[str]:
    """One sentence per item, in the order of `item_ids`; an item nothing is known of gives 'unknown'.

    Raises:
        KnowledgeError: no item of the dataset has any text.
    """
    columns = [(name, dataset.items.column(name).to_pylist()) for name in used_columns(dataset)]
    prompts = []
    for row, title in enumerate(dataset.item_titles()):
        attributes = [(name, _as_text(values[row])) for name, values in columns]
        parts = [title, *(f"{name}: {text}" for name, text in attributes if text)]
        prompts.append(". ".join(part.rstrip(". ") for part in parts if part)[:MAX_ITEM_CHARS] or "unknown")
    if all(prompt == "unknown" for prompt in prompts):
        raise KnowledgeError(
            f"dataset '{dataset.name}': none of its {len(prompts)} items has a text; expected values in 'title' "
            f"or one of {', '.join(ITEM_COLUMNS)}"
        )
    return prompts


def used_columns(dataset: Dataset) -> list[str]:
    """The columns of items.parquet that item prompts quote besides the title."""
    return [name for name in ITEM_COLUMNS if name in dataset.items.column_names]


def user_prompts(dataset: Dataset, train: Sequences) -> list[str]:
    """One sentence per row of `train`, titles newest first; '' where no item of the row has a title.

    Whole titles are kept up to `MAX_HISTORY_CHARS`, so a long history loses its oldest items.

    Args:
        train: item indices per user, oldest first. Give the training part of a split: what stands here is read.
    """
    titles = ["", *dataset.item_titles()]
    question = USER_PROMPT.text.split("{title}", 1)[0]
    prompts = []
    for history in train:
        newest = _newest_titles(titles[item] for item in reversed(history.tolist()))
        prompts.append(question + newest if newest else "")
    return prompts


def _questions(dataset: Dataset, split: Split, options: Options) -> list[Question]:
    """The same texts that `knowledge build` encodes, one question per item and per user that has a text."""
    prompts = user_prompts(dataset, split.train)
    items = zip(dataset.item_ids, item_prompts(dataset), strict=True)
    users = [
        Question("user", dataset.user_ids[row], prompts[row]) for row in chosen_users(dataset, options) if prompts[row]
    ]
    return [Question("item", item, text) for item, text in items] + sampled(users, options)


def _newest_titles(titles: Iterable[str]) -> str:
    kept: list[str] = []
    length = 0
    for title in titles:
        if not title:
            continue
        length += len(title) + 2
        if kept and length > MAX_HISTORY_CHARS:
            break
        kept.append(title[:MAX_HISTORY_CHARS])
    return "; ".join(kept)


def _as_text(value: Any) -> str:
    """One line for a cell: lists and category paths joined by '; ' as in the paper, '' for null."""
    if value is None or value != value:  # NaN is a missing price
        return ""
    text = "; ".join(_as_text(part) for part in value) if isinstance(value, list) else str(value)
    return re.sub(r"\s+", " ", re.sub(r"\s*[>|]\s*", "; ", text)).strip()[:MAX_ATTRIBUTE_CHARS]


PAPER: Final = Paper("llm-esr", {"item": ITEM_PROMPT, "user": USER_PROMPT}, _questions, parse=None)
