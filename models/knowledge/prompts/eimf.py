"""What EIMF (arXiv:2411.09410) asks of a typical user: the interests its explicit module learns from (ESIM, prompt).

Departures from the paper: it quotes the whole history, later training targets among it; here only the training part of
the split, and of it the last 20, the length the model reads. It sets no number of interests; here at most five.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from models.data.dataset import Dataset
from models.data.splits import Split
from models.knowledge.prompts.history import chosen_users, titles_of
from models.knowledge.prompts.template import Options, Paper, PromptTemplate, Question, numbered, sampled, sentence

N_SHOWN: Final = 20
N_LEAST: Final = 4  # the paper's first training target follows four items; fewer show no interests to tell apart
MAX_TITLE_CHARS: Final = 100
MAX_INTERESTS: Final = 20  # paper: the first 20 are kept

INTERESTS: Final = PromptTemplate(
    text="These are the {goods} one customer bought, oldest first:\n{titles}\n"
    "Which distinct interests do they show? Answer with a JSON object that maps an interest number to a specific "
    "phrase of 4 to 12 words naming the need, taste or occasion; as many interests as there really are, at most five.",
    source="EIMF (arXiv:2411.09410), LLM step of the explicit semantic interest module: interests of typical samples",
    limits=(("shown", N_SHOWN), ("max_title_chars", MAX_TITLE_CHARS)),
)


def _questions(dataset: Dataset, split: Split, options: Options) -> list[Question]:
    """One question per chosen user; without a choice, every user with at least four titled training items."""
    titles = titles_of(dataset, MAX_TITLE_CHARS)
    questions = []
    for user in chosen_users(dataset, options):
        shown = [titles[item] for item in split.train[user].tolist() if titles[item]]
        if len(shown) >= (N_LEAST if options.users is None else 1):
            text = INTERESTS.text.format(goods=options.goods, titles=numbered(shown[-N_SHOWN:]))
            questions.append(Question("user", dataset.user_ids[user], text))
    return sampled(questions, options)


def _parse(kind: str, text: str) -> list[str]:
    """The interests in order; models like to wrap the object in a code fence or a sentence."""
    found = re.search(r"\{.*\}", text, re.DOTALL)
    if found is None:
        raise ValueError(f"holds no JSON object: {text.strip()[:60]!r}")
    try:
        interests: Any = json.loads(found.group())
    except ValueError as error:
        raise ValueError(f"is not JSON ({error})") from error
    if not interests or not all(isinstance(value, str) for value in interests.values()):
        raise ValueError("must map interest numbers to phrases, at least one")
    return [sentence(value, 200) for value in interests.values()][:MAX_INTERESTS]


PAPER: Final = Paper("eimf", {"user": INTERESTS}, _questions, _parse)
