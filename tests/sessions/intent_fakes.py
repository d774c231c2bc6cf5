"""Sessions with titles, and answers about their prefixes as `ingest` leaves them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from models.data.dataset import Dataset
from models.knowledge.answers_folder import AnswerSet, Checked
from models.knowledge.prompts.history import titles_of
from models.knowledge.prompts.llm4sbr import MAX_TITLE_CHARS, prefix_name, prefix_questions
from models.knowledge.prompts.template import texts_digest

# The plain encoder of the same kind: no intents, no gates, nothing aligned.
PLAIN: Final[dict[str, Any]] = {"intents": "none", "gates": False, "au_weight": 0.0}


def answers_about(dataset: Dataset, cuts: Mapping[str, int]) -> AnswerSet:
    """Answers about the first clicks of sessions: the long view names the first item, the short one the newest."""
    titles, answers = titles_of(dataset, MAX_TITLE_CHARS), {}
    for user, cut in cuts.items():
        items = dataset.sequences[dataset.user_ids.index(user)][:cut].tolist()
        for question in prefix_questions(prefix_name(f"user:{user}", cut), items, titles, "products"):
            name = f"llm4sbr:{dataset.name}:{question.kind}:{question.about}"
            said = titles[items[0] if question.kind == "long" else items[-1]]
            answers[name] = Checked(name, said, "some-llm", "p", texts_digest([question.text]))
    told = {"paper": "llm4sbr", "dataset": {"name": dataset.name}, "split": None, "prompts": None, "options": None}
    return AnswerSet(answers, told | {"models": {"some-llm": len(answers)}, "prompts_digest": "digest"})
