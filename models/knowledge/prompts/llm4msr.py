"""What LLM4MSR (arXiv:2406.12529, multi-scenario knowledge reasoning) asks: per scenario and per user.

The paper's wording is not public; these follow what is known of it: statistics and description of every scenario, the
target scenario named, and a user's history grouped by scenario. Counts and histories are of the training part alone.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np

from models.data.dataset import Dataset
from models.data.sequences import Sequences
from models.data.splits import Split
from models.errors import KnowledgeError
from models.knowledge.prompts.history import chosen_users, titles_of, training_events
from models.knowledge.prompts.template import Options, Paper, PromptTemplate, Question, sampled, sentence

N_SHOWN: Final = 8  # of each scenario
MAX_TITLE_CHARS: Final = 80
N_CATEGORIES: Final = 5  # describe a scenario nobody described

USER: Final = PromptTemplate(
    text="One customer's recent purchases in several shops, oldest first in each:\n{shop}: {title}; {title}; ...\n"
    "Describe in 35 to 70 words what this customer wants in each shop, what the shops have in common for them, "
    "and how interests in one inform the other.",
    source="LLM4MSR (arXiv:2406.12529), user-level prompt: interests across scenarios",
    limits=(("shown_per_scenario", N_SHOWN), ("max_title_chars", MAX_TITLE_CHARS)),
)
SCENARIO: Final = PromptTemplate(
    text="A retailer runs {n} shops whose customers overlap:\n"
    "{shop}: {description}; {n} interactions, {n} users, {n} items\n"
    "From the viewpoint of the {shop} shop, state what it shares with the others and how it differs.",
    source="LLM4MSR (arXiv:2406.12529), scenario-level prompt: statistics, description, scenario correlation",
    limits=(("counts", "training part"), ("categories", N_CATEGORIES)),
)
_NUMBERS: Final = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def _questions(dataset: Dataset, split: Split, options: Options) -> list[Question]:
    """One question per scenario, and one per chosen user with titled training items in two scenarios or more.

    `options.limit` counts users. A user that was named is asked about with one scenario too.
    """
    if dataset.scenarios is None or len(dataset.scenario_names) < 2:
        raise KnowledgeError(
            f"dataset '{dataset.name}': {len(dataset.scenario_names)} scenarios, llm4msr needs at least two; "
            "they stand in column 'scenario' of interactions.parquet"
        )
    titles = titles_of(dataset, MAX_TITLE_CHARS)
    events = training_events(dataset, split)
    head, _, tail = USER.text.split("\n")
    users = []
    for user in chosen_users(dataset, options):
        shown: dict[int, list[str]] = {}
        for event in events[user].tolist():
            if title := titles[dataset.sequences.items[event]]:
                shown.setdefault(int(dataset.scenarios[event]), []).append(title)
        if len(shown) >= (2 if options.users is None else 1):
            lines = [
                f"{dataset.scenario_names[scenario].capitalize()}: {'; '.join(shown[scenario][-N_SHOWN:])}"
                for scenario in sorted(shown)
            ]
            users.append(Question("user", dataset.user_ids[user], "\n".join([head, *lines, tail])))
    return sampled(users, options) + _scenario_questions(dataset, events, options)


def _scenario_questions(dataset: Dataset, events: Sequences, options: Options) -> list[Question]:
    names = dataset.scenario_names
    if foreign := sorted(set(options.descriptions).difference(names)):
        raise KnowledgeError(
            f"dataset '{dataset.name}': scenario {', '.join(foreign)} is unknown, expected {', '.join(names)}"
        )
    assert dataset.scenarios is not None
    head, _, tail = SCENARIO.text.split("\n")
    number = _NUMBERS[len(names)] if len(names) < len(_NUMBERS) else str(len(names))
    lines = [head.format(n=number)]
    for scenario, name in enumerate(names):
        here = dataset.scenarios[events.items] == scenario
        items = dataset.sequences.items[events.items[here]]
        n_users = len(np.unique(events.rows[here]))
        about = options.descriptions.get(name) or _categories(dataset, items)
        counts = f"{len(items):,} interactions, {n_users:,} users, {len(np.unique(items)):,} items"
        lines.append(f"{name}: {about + '; ' if about else ''}{counts}")
    return [Question("scenario", name, "\n".join([*lines, tail.format(shop=name)])) for name in names]


def _categories(dataset: Dataset, items: np.ndarray) -> str:
    """The most frequent categories of some events, most frequent first; '' if none has one."""
    categories = dataset.item_categories()
    counts = Counter(category for item in items.tolist() if (category := categories[item - 1]))
    ordered = sorted(counts, key=lambda category: (-counts[category], category))
    return ", ".join(category.split(">")[-1].strip() for category in ordered[:N_CATEGORIES])


def _parse(kind: str, text: str) -> str:
    return sentence(text, 6000, words=(10, 600))


PAPER: Final = Paper("llm4msr", {"user": USER, "scenario": SCENARIO}, _questions, _parse)
