"""An LLM's interests of typical users, as vectors, and which typical user every other one is nearest to (EIMF, ESIM).

knowledge.json       encoder, dataset, split, prompts and models of the answers, counts, sha256 of the other files
titles.npz           ids, vectors float16 (n_items, D), zero without a title
interests.npz        user_ids of the E typical users, n_interests (E,), texts and vectors float16 (all interests, D)
assignments.npz      user_ids, exemplars int32 (n_users,) rows of the typical users or -1, similarities
title_pca.npz        mean (D,), components (P, D), explained_variance: the one projection of all texts
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from models.config import Shuffled
from models.data.dataset import Dataset
from models.data.sequences import Sequences
from models.data.splits import Split
from models.errors import ConfigError, KnowledgeError
from models.knowledge import folder as files
from models.knowledge.answers_folder import AnswerSet
from models.knowledge.encoders import TextEncoder, encode_unique
from models.knowledge.pca import fit_pca
from models.knowledge.prompts import texts_digest
from models.knowledge.report import reporting
from models.knowledge.store import N_COMPONENTS

CONTENT: Final = "interests"
TITLES: Final = "titles.npz"
INTERESTS: Final = "interests.npz"
ASSIGNMENTS: Final = "assignments.npz"
PCA: Final = "title_pca.npz"
FILES: Final = (TITLES, INTERESTS, ASSIGNMENTS, PCA)
_BLOCK: Final = 4096  # users compared with all typical users at once


@dataclass(frozen=True, eq=False)
class Projected:
    """Texts in the width a model works with. T width, E typical users, M most interests of one."""

    items: NDArray[np.float32]  # (n_items + 1, T), row 0 zero
    interests: NDArray[np.float32]  # (E + 1, M, T), row 0 empty
    mask: NDArray[np.bool_]  # (E + 1, M)
    exemplar_of_user: NDArray[np.int64]  # (users,) rows of `interests`, 0 for none


@dataclass(frozen=True, eq=False)
class InterestKnowledge:
    """Arrays aligned with one dataset: D dimensions of the encoder, E typical users, I interests of all of them."""

    title_vectors: NDArray[np.float32]  # (n_items + 1, D), zero without a title
    interest_vectors: NDArray[np.float32]  # (I, D)
    texts: list[str]  # I
    n_interests: NDArray[np.int64]  # (E,)
    exemplar_of_user: NDArray[np.int32]  # (users,) 0..E-1, or -1: nothing to go by
    pca_mean: NDArray[np.float32]  # (D,)
    pca_components: NDArray[np.float32]  # (P, D)
    provenance: dict[str, Any]  # knowledge.json

    def projected(self, width: int) -> Projected:
        """Every text through the one projection, at unit variance over titles and dimensions.

        Raises:
            ConfigError: fewer principal components were kept.
        """
        if width > len(self.pca_components):
            raise ConfigError(
                f"model.text_size is {width}, the knowledge holds {len(self.pca_components)} principal components"
            )

        def project(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.asarray((vectors - self.pca_mean) @ self.pca_components[:width].T, dtype=np.float32)

        known = (self.title_vectors != 0).any(1)
        items = np.where(known[:, None], project(self.title_vectors), 0).astype(np.float32)
        scale = float(np.sqrt(np.square(items[known]).mean())) or 1.0
        most = int(self.n_interests.max(initial=1))
        interests = np.zeros((len(self.n_interests) + 1, most, width), dtype=np.float32)
        mask = np.arange(most) < np.concatenate([[0], self.n_interests])[:, None]
        interests[mask] = project(self.interest_vectors) / scale
        return Projected(items / scale, interests, mask, self.exemplar_of_user.astype(np.int64) + 1)


def shuffled_interests(knowledge: InterestKnowledge, what: Collection[Shuffled], seed: int) -> InterestKnowledge:
    """`knowledge` made to say less, a control; `provenance["shuffled"]` says what and by which seed.

    exemplars: the interests of each typical user go to another one. Users keep their typical user, so as many as
        before share each list; what any list says of any topic is still true.
    interests: each interest points in a random direction, as far from the mean title as before. Users still share
        lists, which mean nothing.
    titles: each item gets the title of another.
    """
    rng = np.random.default_rng(seed)  # all is drawn, so that no part depends on what else is asked for
    dealt = rng.permutation(len(knowledge.n_interests))
    random = rng.standard_normal(knowledge.interest_vectors.shape).astype(np.float32)
    known = np.flatnonzero((knowledge.title_vectors != 0).any(1))
    others = rng.permutation(known)
    changed: dict[str, Any] = {}
    if "exemplars" in what:
        own = knowledge.exemplar_of_user
        changed["exemplar_of_user"] = np.where(own >= 0, dealt[own], -1).astype(np.int32)
    if "interests" in what:
        lengths = np.linalg.norm(knowledge.interest_vectors - knowledge.pca_mean, axis=1, keepdims=True)
        random *= lengths / np.linalg.norm(random, axis=1, keepdims=True)
        changed["interest_vectors"] = knowledge.pca_mean + random
    if "titles" in what:
        changed["title_vectors"] = knowledge.title_vectors.copy()
        changed["title_vectors"][known] = knowledge.title_vectors[others]
    shuffled = {"what": sorted(what), "seed": seed}
    return dataclasses.replace(knowledge, **changed, provenance={**knowledge.provenance, "shuffled": shuffled})


def load_interests(folder: Path, dataset: Dataset, split: str) -> InterestKnowledge:
    """The knowledge that `build_interests` wrote to `folder`.

    Raises:
        KnowledgeError: it is something else, was changed, or belongs to another dataset or split.
    """
    folder = Path(folder)
    provenance = files.read_provenance(folder)
    if provenance.get("content") != CONTENT:
        raise KnowledgeError(
            f"{folder}: holds no interests, expected what `python -m models knowledge interests` writes"
        )
    files.check_files(folder, provenance, FILES)
    made_for = provenance["dataset"]
    if made_for["digest"] != dataset.digest or provenance["split"] != split:
        raise KnowledgeError(
            f"{folder}: made from split '{provenance['split']}' of dataset '{made_for['name']}' "
            f"({made_for['digest'][:12]}), expected '{split}' of '{dataset.name}' ({dataset.digest[:12]})"
        )
    (titles,) = files.read_arrays(folder / TITLES, "vectors")  # the same dataset has the same ids in the same order
    n_interests, texts, vectors = files.read_arrays(folder / INTERESTS, "n_interests", "texts", "vectors")
    (exemplars,) = files.read_arrays(folder / ASSIGNMENTS, "exemplars")
    mean, components = files.read_arrays(folder / PCA, "mean", "components")
    return InterestKnowledge(
        title_vectors=np.vstack([np.zeros((1, titles.shape[1])), titles]).astype(np.float32),
        interest_vectors=vectors.astype(np.float32),
        texts=texts.tolist(),
        n_interests=n_interests.astype(np.int64),
        exemplar_of_user=exemplars.astype(np.int32),
        pca_mean=mean.astype(np.float32),
        pca_components=components.astype(np.float32),
        provenance=provenance,
    )


def build_interests(
    dataset: Dataset,
    split: Split,
    answers: AnswerSet,
    folder: Path,
    encoder: TextEncoder,
    console: Console,
    *,
    answers_split: str | None = None,
) -> dict[str, Any]:
    """Writes the folder; gives its knowledge.json.

    Answers about users that training does not see are left out, and so is every user without a titled training item.

    Args:
        answers_split: whose training part the prompts quote, where the answers' own record does not say.

    Raises:
        KnowledgeError: the answers are of another paper, dataset or split, or none of them is about a training user.
    """
    told = answers.provenance
    quoted = told["split"] or answers_split
    _check_origin(told, quoted, dataset, split.name)
    row_of = {user: row for row, user in enumerate(dataset.user_ids)}
    found = [(row_of.get(a.custom_id.split(":", 3)[3]), a.value) for a in answers.answers.values()]
    training = sorted(
        (row, value) for row, value in found if row is not None and len(split.train[row]) and isinstance(value, list)
    )
    building = files.Building(folder, FILES)
    titles = encode_titles(dataset, encoder, building, console)
    features = user_features(titles, split.train)
    known = (features != 0).any(1)
    training = [(row, value) for row, value in training if known[row]]
    if not training:
        raise KnowledgeError(f"none of {len(found)} answers is about a user with titled items in split '{split.name}'")
    pca = fit_pca(titles[(titles != 0).any(1)], N_COMPONENTS)
    building.write(
        PCA,
        {"mean": pca.mean, "components": pca.components, "explained_variance": pca.explained_variance},
        {"n_components": len(pca.components), "explained_ratio": round(pca.explained_ratio, 4)},
    )
    exemplars, texts = [row for row, _ in training], [text for _, value in training for text in value]
    with reporting(console, "interests", "tokens") as report:
        encoded = encode_unique(encoder, texts, report)
    building.write(
        INTERESTS,
        {
            "user_ids": np.array([dataset.user_ids[row] for row in exemplars]),
            "n_interests": np.array([len(value) for _, value in training], dtype=np.int64),
            "texts": np.array(texts),
            "vectors": encoded.vectors.astype(np.float16),
        },
        {"n_typical_users": len(exemplars), "n_interests": len(texts), "n_tokens": encoded.n_tokens},
    )
    nearest, similarity = nearest_rows(features, features[exemplars])
    nearest[~known] = -1
    building.write(
        ASSIGNMENTS,
        {
            "user_ids": np.array(dataset.user_ids),
            "exemplars": nearest,
            "similarities": np.where(known, similarity, 0).astype(np.float16),
        },
        {"n_assigned": int(known.sum()), "mean_similarity": round(float(similarity[known].mean()), 4)},
    )
    n_training = int((split.train.lengths > 0).sum())
    provenance = {
        "format": 1,
        "content": CONTENT,
        "encoder": {"name": encoder.name, "digest": encoder.digest, "dim": encoder.dim},
        "test_only": encoder.test_only,
        "dataset": {"name": dataset.name, "digest": dataset.digest},
        "split": split.name,
        "prompts": told["prompts"],
        "answers": {
            "models": told["models"],
            "split": quoted,
            "prompts_digest": told["prompts_digest"],
            "n_answers": len(found),
            "n_used": len(exemplars),
            "n_training_users": n_training,
            "share_of_training_users": round(len(exemplars) / n_training, 4),
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    building.finish(provenance)
    return provenance


def encode_titles(
    dataset: Dataset, encoder: TextEncoder, building: files.Building, console: Console
) -> NDArray[np.float32]:
    """Title vectors (n_items, D), zero without a title; of an earlier build where titles and encoder are the same."""
    titles = dataset.item_titles()
    key = hashlib.sha256(f"{encoder.digest} {texts_digest(titles)}".encode()).hexdigest()
    if building.reuse(TITLES, key) is None:
        with reporting(console, "titles", "tokens") as report:
            encoded = encode_unique(encoder, titles, report)
        arrays = {"ids": np.array(dataset.item_ids), "vectors": encoded.vectors.astype(np.float16)}
        building.write(TITLES, arrays, {"key": key, "n_tokens": encoded.n_tokens, "n_cut": encoded.n_cut})
    vectors: NDArray[np.float32] = building.read(TITLES, "vectors")[0].astype(np.float32)
    return vectors


def user_features(titles: NDArray[np.float32], histories: Sequences) -> NDArray[np.float32]:
    """float32 (rows, D): the mean title vector of each history, at unit length; zero where it has no titled item."""
    sums = np.zeros((len(histories), titles.shape[1]), dtype=np.float32)
    filled = np.flatnonzero(histories.lengths > 0)
    for start in range(0, len(filled), _BLOCK):  # a block at a time: all events at once would be gigabytes
        part = histories.take(filled[start : start + _BLOCK])
        sums[filled[start : start + _BLOCK]] = np.add.reduceat(titles[part.items - 1], part.offsets[:-1], axis=0)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.asarray(sums / np.where(norms > 0, norms, 1), dtype=np.float32)


def nearest_rows(
    features: NDArray[np.float32], centres: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The nearest of `centres` (E, D) to each of `features` (n, D) by dot product, ties to the first; and how near."""
    nearest = np.empty(len(features), dtype=np.int32)
    similarity = np.empty(len(features), dtype=np.float32)
    for start in range(0, len(features), _BLOCK):
        scores = features[start : start + _BLOCK] @ centres.T
        best = scores.argmax(1)
        nearest[start : start + _BLOCK] = best
        similarity[start : start + _BLOCK] = scores[np.arange(len(best)), best]
    return nearest, similarity


def _check_origin(told: Any, quoted: str | None, dataset: Dataset, split: str) -> None:
    if told["paper"] != "eimf" or told["dataset"]["name"] != dataset.name:
        raise KnowledgeError(
            f"the answers are of {told['paper']} of '{told['dataset']['name']}', expected eimf of '{dataset.name}'"
        )
    # Of a user that trains, leave-one-out shows less than user_disjoint does; answers about the others are left out.
    allowed: Sequence[str] = (split, "leave_one_out") if split == "user_disjoint" else (split,)
    if quoted not in allowed:
        raise KnowledgeError(
            f"the answers' prompts quote the training part of split {quoted or 'unknown'}, expected "
            f"{' or '.join(allowed)}: they could hold what is held out here"
        )
