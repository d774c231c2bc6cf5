"""An LLM's long- and short-term intents of session prefixes, as vectors among the catalogue's texts (LLM4SBR).

knowledge.json       encoder, dataset, localisation, prompts and models of the answers, counts, sha256 of the others
titles.npz           ids, vectors float16 (n_items, D), zero without a title
localised_titles.npz vectors float16 (n_items, D): each title as if a language model had answered it
intents.npz          user_ids, session_ids, cuts, digests: which P prefixes; texts (P, 2), vectors float16 (P, 2, D)
                     and neighbours int32 (P, 2, r), item indices, of the long view (0) and the short one (1)
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from models.data.dataset import Dataset
from models.errors import KnowledgeError
from models.knowledge import folder as files
from models.knowledge.answers_folder import AnswerSet, Checked
from models.knowledge.encoders import TextEncoder, encode_unique
from models.knowledge.interests import TITLES, encode_titles
from models.knowledge.localise import Weights, localise
from models.knowledge.prompts.history import titles_of
from models.knowledge.prompts.llm4sbr import MAX_TITLE_CHARS, VIEWS, prefix_questions
from models.knowledge.prompts.template import texts_digest
from models.knowledge.report import reporting

CONTENT: Final = "intents"
INTENTS: Final = "intents.npz"
LOCALISED: Final = "localised_titles.npz"
FILES: Final = (TITLES, LOCALISED, INTENTS)
N_NEIGHBOURS: Final = 5  # r of the paper
_ABOUT: Final = re.compile(r"user:(?P<user>.+?)(?::session:(?P<session>.+))?:prefix:(?P<cut>\d+)")


@dataclass(frozen=True, eq=False)
class IntentKnowledge:
    """Answered prefixes, aligned with one dataset. P prefixes, D dimensions of the encoder, views long and short."""

    users: NDArray[np.int64]  # (P,) rows of dataset.user_ids
    session_ids: NDArray[np.str_]  # (P,) '' where a user is one session
    cuts: NDArray[np.int64]  # (P,) clicks of the prefix
    vectors: NDArray[np.float32]  # (P, 2, D)
    neighbours: NDArray[np.int32]  # (P, 2, r) item indices, nearest first
    texts: list[list[str]]  # P times 2: what the language model said
    title_vectors: NDArray[np.float32]  # (n_items + 1, D), row 0 and items without a title zero
    localised_titles: NDArray[np.float32]  # (n_items + 1, D), likewise
    provenance: dict[str, Any]  # knowledge.json

    def __len__(self) -> int:
        return len(self.users)


def shuffled_intents(knowledge: IntentKnowledge, seed: int) -> IntentKnowledge:
    """`knowledge` with both intents of each prefix dealt to another one: a control, they say nothing of any prefix."""
    dealt = np.random.default_rng(seed).permutation(len(knowledge))
    return dataclasses.replace(
        knowledge,
        vectors=knowledge.vectors[dealt],
        neighbours=knowledge.neighbours[dealt],
        texts=[knowledge.texts[row] for row in dealt],
        provenance={**knowledge.provenance, "shuffled": {"what": ["intents"], "seed": seed}},
    )


def load_intents(folder: Path, dataset: Dataset) -> IntentKnowledge:
    """The knowledge that `build_intents` wrote to `folder`; it holds for any split, which must say whom it may use.

    Raises:
        KnowledgeError: it is something else, was changed, or belongs to another dataset.
    """
    folder = Path(folder)
    provenance = files.read_provenance(folder)
    if provenance.get("content") != CONTENT:
        raise KnowledgeError(f"{folder}: holds no intents, expected what `python -m models knowledge intents` writes")
    files.check_files(folder, provenance, FILES)
    made_for = provenance["dataset"]
    if made_for["digest"] != dataset.digest:
        raise KnowledgeError(
            f"{folder}: made from dataset '{made_for['name']}' ({made_for['digest'][:12]}), "
            f"expected '{dataset.name}' ({dataset.digest[:12]})"
        )
    (titles,) = files.read_arrays(folder / TITLES, "vectors")  # the same dataset has the same ids in the same order
    (localised,) = files.read_arrays(folder / LOCALISED, "vectors")
    names = ("user_ids", "session_ids", "cuts", "digests", "texts", "vectors", "neighbours")
    user_ids, sessions, cuts, digests, texts, vectors, neighbours = files.read_arrays(folder / INTENTS, *names)
    row_of = {user: row for row, user in enumerate(dataset.user_ids)}
    prefixes = list(zip(user_ids.tolist(), sessions.tolist(), cuts.tolist(), strict=True))
    clicks = _Clicks(dataset)
    for prefix, expected in zip(prefixes, digests.tolist(), strict=True):
        if prefix_digest(dataset, clicks.of(*prefix)) != expected:
            raise KnowledgeError(f"{folder}: prefix {prefix} is not the one that was asked about")
    zero = np.zeros((1, titles.shape[1]), dtype=np.float32)
    return IntentKnowledge(
        users=np.array([row_of[user] for user in user_ids.tolist()], dtype=np.int64),
        session_ids=sessions,
        cuts=cuts.astype(np.int64),
        vectors=vectors.astype(np.float32),
        neighbours=neighbours.astype(np.int32),
        texts=texts.tolist(),
        title_vectors=np.vstack([zero, titles]).astype(np.float32),
        localised_titles=np.vstack([zero, localised]).astype(np.float32),
        provenance=provenance,
    )


def build_intents(
    dataset: Dataset,
    answers: AnswerSet,
    folder: Path,
    encoder: TextEncoder,
    console: Console,
    *,
    goods: str = "products",
    title_chars: Sequence[int] = (MAX_TITLE_CHARS,),
    r: int = N_NEIGHBOURS,
    weights: Weights = "cosine",
) -> dict[str, Any]:
    """Writes the folder; gives its knowledge.json.

    Every prompt is written anew from the prefix its `custom_id` names and held to the one that was answered, so that no
    answer can have seen a later click, or belong to another prefix. A prefix needs both views.

    Args:
        goods: what the prompts call the shop's goods, where the answers' own record does not say.
        title_chars: the lengths that prompts may have cut titles to, where somebody else wrote them.
        r: neighbours that a vector is made of; 0 takes the answer's own.
        weights: of the neighbours, see `localise`.

    Raises:
        KnowledgeError: the answers are of another paper or dataset, one is to another prompt, or none is complete.
    """
    told = answers.provenance
    if told["paper"] != "llm4sbr" or told["dataset"]["name"] != dataset.name:
        raise KnowledgeError(
            f"the answers are of {told['paper']} of '{told['dataset']['name']}', expected llm4sbr of '{dataset.name}'"
        )
    goods = (told.get("options") or {}).get("goods", goods)
    prefixes = _complete(answers.answers.values())
    if not prefixes:
        raise KnowledgeError(f"none of {len(answers.answers)} answers comes with that of the other view")
    items = _checked_clicks(dataset, prefixes, goods, title_chars)

    building = files.Building(folder, FILES)
    titles = encode_titles(dataset, encoder, building, console)
    table = np.vstack([np.zeros((1, titles.shape[1]), dtype=np.float32), titles])
    building.write(LOCALISED, {"vectors": localise(table[1:], table, r, weights).vectors.astype(np.float16)}, {})
    texts = [[prefix[view].value for view in VIEWS] for prefix in prefixes.values()]
    with reporting(console, "intents", "tokens") as report:
        encoded = encode_unique(encoder, [text for pair in texts for text in pair], report)
    localised = localise(encoded.vectors, table, r, weights)
    names = [_named(about) for about in prefixes]
    building.write(
        INTENTS,
        {
            "user_ids": np.array([user for user, _, _ in names]),
            "session_ids": np.array([session for _, session, _ in names]),
            "cuts": np.array([cut for _, _, cut in names], dtype=np.int64),
            "digests": np.array([prefix_digest(dataset, clicked) for clicked in items]),
            "texts": np.array(texts),
            "vectors": localised.vectors.reshape(len(names), len(VIEWS), -1).astype(np.float16),
            "neighbours": localised.neighbours.reshape(len(names), len(VIEWS), -1),
        },
        {"n_prefixes": len(names), "n_tokens": encoded.n_tokens, "n_cut": encoded.n_cut},
    )
    provenance = {
        "format": 1,
        "content": CONTENT,
        "encoder": {"name": encoder.name, "digest": encoder.digest, "dim": encoder.dim},
        "test_only": encoder.test_only,
        "dataset": {"name": dataset.name, "digest": dataset.digest},
        "split": None,  # a prompt shows its own prefix and nothing else: which prefixes may be used is up to the split
        "localisation": {"r": r, "weights": weights},
        "prompts": told["prompts"]
        or {
            view: {**template.describe(), "goods": goods, "titles_cut_to": list(title_chars)}
            for view, template in VIEWS.items()
        },
        "answers": {
            "models": told["models"],
            "prompts_digest": told["prompts_digest"],
            "n_answers": len(answers.answers),
            "n_prefixes": len(names),
            "n_without_other_view": len(answers.answers) - len(VIEWS) * len(names),
            "n_users": len({user for user, _, _ in names}),
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    building.finish(provenance)
    return provenance


def prefix_digest(dataset: Dataset, items: NDArray[np.int64]) -> str:
    """Hex digest of the clicks (item indices) of a prefix by their ids, the same whatever the catalogue's order."""
    ids = "\n".join(dataset.item_ids[item - 1] for item in items.tolist())
    return hashlib.blake2b(ids.encode(), digest_size=16).hexdigest()


class _Clicks:
    """The items of prefixes, sessions sorted out once."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._row_of = {user: row for row, user in enumerate(dataset.user_ids)}

    def of(self, user: str, session: str, cut: int) -> NDArray[np.int64]:
        """int64 (cut,); KnowledgeError if there is no such prefix with a click after it."""
        row = self._row_of.get(user)
        if row is None:
            raise KnowledgeError(f"dataset '{self._dataset.name}': has no user {user!r} that an answer is about")
        sequences = self._dataset.sequences
        clicked = sequences[row]
        if session:
            ids = self._dataset.session_ids
            ours = None if ids is None else ids[sequences.offsets[row] : sequences.offsets[row + 1]] == session
            clicked = clicked[:0] if ours is None else clicked[np.asarray(ours, dtype=bool)]
        if not 0 < cut < len(clicked):
            raise KnowledgeError(
                f"user {user!r}{f', session {session!r}' if session else ''}: has {len(clicked)} clicks, "
                f"expected more than the {cut} of a prefix"
            )
        return clicked[:cut]


def _complete(answers: Iterable[Checked]) -> dict[str, dict[str, Checked]]:
    """{about: {view: answer}} of the prefixes with both views, by name."""
    found: dict[str, dict[str, Checked]] = {}
    for answer in answers:
        _, _, view, about = answer.custom_id.split(":", 3)
        found.setdefault(about, {})[view] = answer
    return {about: views for about, views in sorted(found.items()) if views.keys() == VIEWS.keys()}


def _checked_clicks(
    dataset: Dataset, prefixes: dict[str, dict[str, Checked]], goods: str, title_chars: Sequence[int]
) -> list[NDArray[np.int64]]:
    """The clicks of each prefix; KnowledgeError if an answered prompt shows anything else."""
    titles, clicks = [titles_of(dataset, longest) for longest in title_chars], _Clicks(dataset)
    items = [clicks.of(*_named(about)) for about in prefixes]
    for (about, views), clicked in zip(prefixes.items(), items, strict=True):
        allowed = {
            (question.kind, texts_digest([question.text]))
            for cut_titles in titles
            for question in prefix_questions(about, clicked.tolist(), cut_titles, goods)
        }
        for view, answer in views.items():
            if (view, answer.text_digest) not in allowed:
                raise KnowledgeError(
                    f"{answer.custom_id}: answers another prompt than its prefix gives (goods {goods!r}, titles of "
                    f"{' or '.join(map(str, title_chars))} characters); it may have seen what is held out"
                )
    return items


def _named(about: str) -> tuple[str, str, int]:
    """User, session ('' for none) and number of clicks that `about` names."""
    if (match := _ABOUT.fullmatch(about)) is None:
        raise KnowledgeError(f"an answer is about {about!r}, expected user:USER[:session:SESSION]:prefix:CUT")
    return match["user"], match["session"] or "", int(match["cut"])
