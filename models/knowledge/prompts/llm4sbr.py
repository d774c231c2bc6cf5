"""What LLM4SBR (arXiv:2402.13840, intent inference) asks of a session prefix: the next item in two views.

Departures from the paper: one numbered title per line without the internal id, at most the last 15, and a wording that
says what each view looks at, where the paper changes one word.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from models.data.dataset import Dataset
from models.data.splits import Split
from models.knowledge.prompts.history import chosen_users, titles_of, training_events
from models.knowledge.prompts.template import Options, Paper, PromptTemplate, Question, numbered, sampled, sentence

N_SHOWN: Final = 15
MAX_TITLE_CHARS: Final = 90
_SOURCE: Final = "LLM4SBR (arXiv:2402.13840), section on intent inference, {view} view"


def _template(view: str, judged_by: str) -> PromptTemplate:
    return PromptTemplate(
        text="A shopper clicked these {goods}, oldest first:\n{titles}\n"
        f"Name one product this shopper will be interested in next, judged by {judged_by}. "
        "Answer with the product name only.",
        source=_SOURCE.format(view=view),
        limits=(("shown", N_SHOWN), ("max_title_chars", MAX_TITLE_CHARS)),
    )


VIEWS: Final = {
    "long": _template("long-term", "the long-term taste over the whole list"),
    "short": _template("short-term", "the most recent one or two clicks"),
}


def _questions(dataset: Dataset, split: Split, options: Options) -> list[Question]:
    """Two questions per prefix that a training click follows; `options.limit` counts prefixes."""
    titles = titles_of(dataset, MAX_TITLE_CHARS)
    prefixes = [
        (about, items[:cut])
        for session, items in training_sessions(dataset, split, options)
        for cut in range(1, len(items))
        for about in [prefix_name(session, cut)]
        if options.prefixes is None or about in options.prefixes
    ]
    return [
        question
        for about, items in sampled(prefixes, options)
        for question in prefix_questions(about, items, titles, options.goods)
    ]


def prefix_name(session: str, cut: int) -> str:
    """What a question is `about`: the first `cut` clicks of a session of `training_sessions`."""
    return f"{session}:prefix:{cut}"


def prefix_questions(about: str, items: list[int], titles: list[str], goods: str) -> list[Question]:
    """Both views' questions about the clicks `items`; none where no shown click has a title.

    Args:
        titles: by item index, from `titles_of(dataset, MAX_TITLE_CHARS)`.
    """
    # The same window of clicks whatever has a title, so that a prefix means the same as in training.
    shown = [titles[item] for item in items[-N_SHOWN:] if titles[item]]
    if not shown:
        return []
    listed = numbered(shown)
    return [Question(view, about, template.text.format(goods=goods, titles=listed)) for view, template in VIEWS.items()]


def training_sessions(dataset: Dataset, split: Split, options: Options) -> Iterator[tuple[str, list[int]]]:
    """Name and items, oldest first, of each training session; a whole user where the split knows of no sessions."""
    users = chosen_users(dataset, options)
    if split.name != "by_session" or dataset.session_ids is None:
        for user in users:
            yield f"user:{dataset.user_ids[user]}", split.train[user].tolist()
        return
    events = training_events(dataset, split)
    for user in users:
        sessions: dict[str, list[int]] = {}
        for event in events[user].tolist():
            sessions.setdefault(dataset.session_ids[event], []).append(int(dataset.sequences.items[event]))
        for session, items in sessions.items():
            yield f"user:{dataset.user_ids[user]}:session:{session}", items


def _parse(kind: str, text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        raise ValueError(f"has {len(lines)} lines, expected a product name alone")
    name = "".join(lines)
    for wrap in ("**", '"', "'", "`"):  # around the whole name; a name may end in inches (")
        if len(name) > 2 * len(wrap) and name.startswith(wrap) and name.endswith(wrap):
            name = name[len(wrap) : -len(wrap)]
    return sentence(name, 200)


PAPER: Final = Paper("llm4sbr", VIEWS, _questions, _parse)
