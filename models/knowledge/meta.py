"""What an LLM says of scenarios and users, as the vectors that LLM4MSR's meta networks read.

knowledge.json       provider of the vectors, dataset, split, prompts and models of the answers, counts, sha256 of files
scenarios.npz        ids, vectors float16 (S, H) of every scenario
users.npz            ids, vectors float16 (E, H) of the users the LLM told of
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from models.data.dataset import NO_TIMESTAMP, Dataset
from models.data.sequences import Sequences
from models.data.splits import Split
from models.errors import KnowledgeError
from models.knowledge import folder as files
from models.knowledge.encoders import TextEncoder, encode_unique
from models.knowledge.prompts.history import titles_of, training_events
from models.knowledge.prompts.llm4msr import MAX_TITLE_CHARS, N_SHOWN
from models.knowledge.report import reporting

CONTENT: Final = "meta"
SCENARIOS: Final = "scenarios.npz"
USERS: Final = files.USERS
FILES: Final = (SCENARIOS, USERS)
_UNKNOWN_TIME: Final = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class MetaKnowledge:
    """Vectors aligned with one dataset, centred: those of near-identical prompts are nearly parallel (sheet, 8.5)."""

    scenario_vectors: NDArray[np.float32]  # (S, H)
    user_vectors: NDArray[np.float32]  # (E + 1, H), row 0 zero
    row_of_user: NDArray[np.int64]  # (n_users,) rows of user_vectors, 0 where the LLM told nothing
    provenance: dict[str, Any]  # knowledge.json


@dataclass(frozen=True, eq=False)
class Told:
    """What an LLM said, by scenario and by user: texts, or vectors float32 (H,) of its own; and where it comes from."""

    scenarios: Mapping[str, Any]
    users: Mapping[str, Any]
    provenance: Mapping[str, Any]  # for the block `answers` of knowledge.json
    provider: Mapping[str, Any] | None = None  # who made the vectors, where they are not texts


def load_meta(folder: Path, dataset: Dataset, split: str) -> MetaKnowledge:
    """The knowledge that `build_meta` wrote to `folder`.

    Raises:
        KnowledgeError: it is something else, was changed, or belongs to another dataset or split.
    """
    folder = Path(folder)
    provenance = files.read_provenance(folder)
    if provenance.get("content") != CONTENT:
        raise KnowledgeError(f"{folder}: holds no vectors of scenarios, expected what `knowledge meta` writes")
    files.check_files(folder, provenance, FILES)
    made_for = provenance["dataset"]
    if made_for["digest"] != dataset.digest or provenance["split"] != split:
        raise KnowledgeError(
            f"{folder}: made from split '{provenance['split']}' of dataset '{made_for['name']}' "
            f"({made_for['digest'][:12]}), expected '{split}' of '{dataset.name}' ({dataset.digest[:12]})"
        )
    _, scenarios = files.read_arrays(folder / SCENARIOS, "ids", "vectors")
    ids, users = files.read_arrays(folder / USERS, "ids", "vectors")
    row = {user: place for place, user in enumerate(ids.tolist(), start=1)}
    return MetaKnowledge(
        scenario_vectors=_centred(scenarios),
        user_vectors=np.concatenate([np.zeros((1, users.shape[1]), np.float32), _centred(users)]),
        row_of_user=np.array([row.get(user, 0) for user in dataset.user_ids], dtype=np.int64),
        provenance=provenance,
    )


def shuffled_users(knowledge: MetaKnowledge, seed: int) -> MetaKnowledge:
    """`knowledge` with each vector dealt to another of the same users: a control, it says nothing of who has it."""
    dealt = 1 + np.random.default_rng(seed).permutation(len(knowledge.user_vectors) - 1)
    vectors = np.concatenate([knowledge.user_vectors[:1], knowledge.user_vectors[dealt]])
    told = {**knowledge.provenance, "shuffled": {"what": ["users"], "seed": seed}}
    return dataclasses.replace(knowledge, user_vectors=vectors, provenance=told)


def random_vectors(knowledge: MetaKnowledge, seed: int) -> MetaKnowledge:
    """`knowledge` with noise for the same users and scenarios: a control for the capacity that vectors bring."""
    rng = np.random.default_rng(seed)
    users = rng.standard_normal(knowledge.user_vectors.shape).astype(np.float32)
    users[0] = 0
    return dataclasses.replace(
        knowledge,
        scenario_vectors=rng.standard_normal(knowledge.scenario_vectors.shape).astype(np.float32),
        user_vectors=users,
        provenance={**knowledge.provenance, "random_vectors": {"seed": seed}},
    )


def build_meta(
    dataset: Dataset,
    split: Split,
    told: Told,
    usable: Mapping[str, bool],
    folder: Path,
    encoder: TextEncoder | None,
    console: Console,
    *,
    future_visible: bool,
) -> dict[str, Any]:
    """Writes the folder; gives its knowledge.json.

    Args:
        usable: whether all that the prompt of a user quotes lies before what this split holds out of them. Others
            are left out, unless `future_visible` says that they may stay, which is then on record.
        encoder: of texts; unread where `told` holds vectors.

    Raises:
        KnowledgeError: a scenario of the dataset has no answer.
    """
    if missing := [name for name in dataset.scenario_names if name not in told.scenarios]:
        raise KnowledgeError(f"dataset '{dataset.name}': nothing was told of scenario {', '.join(missing)}")
    known = [user for user in dataset.user_ids if user in told.users]
    kept = known if future_visible else [user for user in known if usable.get(user, False)]
    values = [told.scenarios[name] for name in dataset.scenario_names] + [told.users[user] for user in kept]
    if told.provider is not None:
        vectors, provider, test_only = np.stack(values).astype(np.float32), dict(told.provider), False
    else:
        assert encoder is not None
        with reporting(console, "texts", "tokens") as report:
            vectors = encode_unique(encoder, values, report).vectors
        provider = {"name": encoder.name, "digest": encoder.digest, "dim": encoder.dim}
        test_only = encoder.test_only
    building = files.Building(folder, FILES)
    n = len(dataset.scenario_names)
    for name, ids, part in ((SCENARIOS, dataset.scenario_names, vectors[:n]), (USERS, kept, vectors[n:])):
        building.write(name, {"ids": np.array(ids, dtype=np.str_), "vectors": part.astype(np.float16)}, {"n": len(ids)})
    provenance = {
        "format": 1,
        "content": CONTENT,
        "encoder": provider,
        "test_only": test_only,
        "dataset": {"name": dataset.name, "digest": dataset.digest},
        "split": split.name,
        "prompts": told.provenance.get("prompts"),
        "answers": {
            **told.provenance,
            "n_users": len(known),
            "n_users_used": len(kept),
            "n_users_quoted_past_a_held_out_event": sum(not usable.get(user, False) for user in known),
            "cross_domain_future_visible": future_visible,
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    building.finish(provenance)
    return provenance


def quoted_events(dataset: Dataset, split: Split) -> Sequences:
    """By user the places of events in `dataset.sequences.items` that the prompt about them quotes.

    As `prompts.llm4msr` chooses them: in each scenario the newest titled ones of the training part.
    """
    assert dataset.scenarios is not None
    titles, scenarios = titles_of(dataset, MAX_TITLE_CHARS), dataset.scenarios
    rows = []
    for events in training_events(dataset, split):
        titled = [event for event in events.tolist() if titles[dataset.sequences.items[event]]]
        by_scenario: dict[int, list[int]] = {}
        for event in titled:
            by_scenario.setdefault(int(scenarios[event]), []).append(event)
        rows.append(sorted(event for found in by_scenario.values() for event in found[-N_SHOWN:]))
    return Sequences.from_lists(rows)


def usable_users(quoted: Dataset, quoted_split: Split, dataset: Dataset, split: Split) -> dict[str, bool]:
    """Of each user of `quoted`: is all that a prompt over its `quoted_split` quotes earlier than what is held out here?

    Earlier by the clock, and by more than a tie: an event without a time cannot be. With the same dataset and split in
    one order of time, it is so by construction.
    """
    if (
        quoted.digest == dataset.digest
        and quoted_split.name == split.name
        and split.name
        in (
            "leave_one_out",
            "global_time",
        )
    ):
        return dict.fromkeys(quoted.user_ids, True)
    newest = _newest_times(quoted, quoted_events(quoted, quoted_split))
    held_out = np.ones(dataset.n_interactions, dtype=bool)
    held_out[training_events(dataset, split).items] = False
    first = np.full(dataset.n_users, _UNKNOWN_TIME, dtype=np.int64)
    times = _times(dataset, np.flatnonzero(held_out))
    # An unknown time among what is held out: nothing is known to lie before it.
    np.minimum.at(first, dataset.sequences.rows[held_out], np.where(times == _UNKNOWN_TIME, NO_TIMESTAMP, times))
    row = {user: place for place, user in enumerate(dataset.user_ids)}
    return {user: user in row and bool(newest[place] < first[row[user]]) for place, user in enumerate(quoted.user_ids)}


def _newest_times(dataset: Dataset, events: Sequences) -> NDArray[np.int64]:
    """int64 (rows,): the newest time of each row's events, the largest number where one is unknown."""
    newest = np.full(len(events), NO_TIMESTAMP, dtype=np.int64)
    np.maximum.at(newest, events.rows, _times(dataset, events.items))
    return newest


def _times(dataset: Dataset, places: NDArray[np.int64]) -> NDArray[np.int64]:
    if dataset.timestamps is None:
        return np.full(len(places), _UNKNOWN_TIME, dtype=np.int64)
    times = dataset.timestamps[places]
    return np.where(times == NO_TIMESTAMP, _UNKNOWN_TIME, times)


def _centred(vectors: NDArray[Any]) -> NDArray[np.float32]:
    found = vectors.astype(np.float32)
    return found - found.mean(0, keepdims=True) if len(found) > 1 else found


def told_by(answers: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Values of answers about one kind of subject, by its id."""
    return {
        custom_id.split(":", 3)[3]: answer.value
        for custom_id, answer in answers.items()
        if custom_id.split(":", 3)[2] == what
    }


def told_ids(values: Sequence[Any]) -> bool:
    """Whether these are vectors and not texts."""
    return any(isinstance(value, np.ndarray) for value in values)
