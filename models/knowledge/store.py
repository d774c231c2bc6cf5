"""What a language model knows of a dataset's items and users, as arrays: building it and loading it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from models.data.dataset import Dataset
from models.data.splits import Split
from models.errors import KnowledgeError
from models.knowledge import folder as files
from models.knowledge.encoders import TextEncoder, encode_unique
from models.knowledge.pca import fit_pca
from models.knowledge.prompts import ITEM_PROMPT, USER_PROMPT, item_prompts, texts_digest, used_columns, user_prompts
from models.knowledge.report import reporting
from models.knowledge.similar import similar_users
from models.terminal import stderr_console

FORMAT: Final = 1
N_SIMILAR: Final = 100  # LLM-ESR keeps 100 and trains with the first 10
N_COMPONENTS: Final = 128  # LLM-ESR starts its collaborative view from 64


@dataclass(frozen=True, eq=False)
class Knowledge:
    """Arrays aligned with one dataset: D dimensions of the encoder, U users, P components."""

    item_vectors: NDArray[np.float32]  # (n_items + 1, D), row 0 zero
    user_vectors: NDArray[np.float32]  # (U, D), zero for a user without training text
    similar_users: NDArray[np.int32]  # (U, n), rows of user_ids, nearest first, never the user itself
    pca_mean: NDArray[np.float32]  # (D,)
    pca_components: NDArray[np.float32]  # (P, D)
    provenance: dict[str, Any]  # knowledge.json


def load_knowledge(folder: Path, dataset: Dataset, split: str | None = None) -> Knowledge:
    """The knowledge in `folder`, its rows in the order of the dataset's ids.

    Args:
        split: name of the split a model will be trained on; the user prompts must come from its training part.

    Raises:
        KnowledgeError: a file is missing or was changed, the knowledge is of another dataset or split, or its ids are
            not the dataset's; the message names the ids that are missing and foreign.
    """
    folder = Path(folder)
    provenance = files.read_provenance(folder)
    files.check_files(folder, provenance)
    made_for = provenance["dataset"]
    if made_for["digest"] != dataset.digest:
        raise KnowledgeError(
            f"{folder}: made from dataset '{made_for['name']}' with digest {made_for['digest'][:12]}, "
            f"expected '{dataset.name}' with {dataset.digest[:12]}; "
            "its user prompts could hold what is held out now: build it again"
        )
    if split is not None and provenance["split"] != split:
        raise KnowledgeError(
            f"{folder}: its user prompts are from the training part of split '{provenance['split']}', "
            f"expected '{split}'"
        )
    item_ids, item_vectors = files.read_arrays(folder / files.ITEMS, "ids", "vectors")
    user_ids, user_vectors = files.read_arrays(folder / files.USERS, "ids", "vectors")
    similar_ids, neighbours = files.read_arrays(folder / files.SIMILAR, "ids", "neighbours")
    mean, components = files.read_arrays(folder / files.PCA, "mean", "components")
    items = _rows_of(item_ids, dataset.item_ids, folder / files.ITEMS)
    users = _rows_of(user_ids, dataset.user_ids, folder / files.USERS)
    similar = _rows_of(similar_ids, dataset.user_ids, folder / files.SIMILAR)
    return Knowledge(
        item_vectors=np.vstack([np.zeros((1, item_vectors.shape[1])), item_vectors[items]]).astype(np.float32),
        user_vectors=user_vectors[users].astype(np.float32),
        similar_users=np.argsort(similar)[neighbours[similar]].astype(np.int32),
        pca_mean=mean.astype(np.float32),
        pca_components=components.astype(np.float32),
        provenance=provenance,
    )


def build_knowledge(
    dataset: Dataset,
    split: Split,
    folder: Path,
    encoder: TextEncoder,
    *,
    n_similar: int = N_SIMILAR,
    n_components: int = N_COMPONENTS,
    console: Console | None = None,
    detail: Callable[[], str] | None = None,
) -> bool:
    """True if `folder` was written, False if it already held the same knowledge.

    Same means: same texts, encoder, dataset, split and sizes, and files as recorded. An interrupted build goes on after
    the last encoded file; texts that an earlier build of this folder encoded are not encoded again.

    Args:
        split: user prompts quote `split.train` only.
        console: where progress goes; default stderr.
        detail: more to say beside the progress of an encoder, such as its cost.

    Raises:
        KnowledgeError: no item has a text, the folder holds something else, or the encoder's vectors are unusable.
    """
    folder = Path(folder)
    console = console or stderr_console()
    if encoder.test_only:
        console.print(
            f"warning: encoder '{encoder.name}' is for tests only: its vectors know nothing of meaning", style="yellow"
        )
    item_texts, user_texts = item_prompts(dataset), user_prompts(dataset, split.train)
    recipe = {
        "format": FORMAT,
        "encoder": {"name": encoder.name, "digest": encoder.digest, "dim": encoder.dim},
        "test_only": encoder.test_only,
        "dataset": {"name": dataset.name, "digest": dataset.digest},
        "split": split.name,
        "prompts": {
            "item": {**ITEM_PROMPT.describe(), **_about(item_texts, "unknown"), "columns": used_columns(dataset)},
            "user": {**USER_PROMPT.describe(), **_about(user_texts, "")},
        },
        "n_similar": n_similar,
        "n_components": n_components,
    }
    if _is_done(folder, recipe):
        console.print(f"{folder}: up to date, nothing to do")
        return False
    building = files.Building(folder)
    items = _encoded(building, files.ITEMS, dataset.item_ids, item_texts, encoder, console, detail)
    pca = fit_pca(items.astype(np.float32), n_components)
    building.write(
        files.PCA,
        {"mean": pca.mean, "components": pca.components, "explained_variance": pca.explained_variance},
        {"n_components": len(pca.components), "explained_ratio": round(pca.explained_ratio, 4)},
    )
    users = _encoded(building, files.USERS, dataset.user_ids, user_texts, encoder, console, detail)
    started = time.monotonic()
    with reporting(console, "similar users", "users") as report:
        neighbours = similar_users(users.astype(np.float32), n_similar, np.array([*map(bool, user_texts)]), report)
    seconds = round(time.monotonic() - started, 1)
    building.write(
        files.SIMILAR,
        {"ids": np.array(dataset.user_ids), "neighbours": neighbours},
        {"n": neighbours.shape[1], "seconds": seconds},
    )
    console.print(f"similar users: {neighbours.shape[1]} for each of {len(neighbours):,}, {seconds} s")
    building.finish({**recipe, "created": datetime.now(UTC).isoformat(timespec="seconds")})
    return True


def _encoded(
    building: files.Building,
    name: str,
    ids: Sequence[str],
    texts: Sequence[str],
    encoder: TextEncoder,
    console: Console,
    detail: Callable[[], str] | None,
) -> NDArray[np.float16]:
    """Vectors float16 (texts, D) of one file, from an earlier build where ids, texts and encoder are the same."""
    label = name.removesuffix(".npz")
    key = hashlib.sha256(f"{encoder.digest} {texts_digest(ids)} {texts_digest(texts)}".encode()).hexdigest()
    if building.reuse(name, key) is not None:
        console.print(f"{label}: {len(texts):,} vectors kept from an earlier build")
        vectors: NDArray[np.float16] = building.read(name, "vectors")[0]
        return vectors
    started = time.monotonic()
    with reporting(console, label, "tokens", detail) as report:
        encoded = encode_unique(encoder, texts, report)
    seconds = max(time.monotonic() - started, 1e-3)
    vectors = encoded.vectors.astype(np.float16)
    n_encoded = len({text for text in texts if text})
    note = {"n_encoded": n_encoded, "n_tokens": encoded.n_tokens, "n_cut": encoded.n_cut, "seconds": round(seconds, 1)}
    building.write(name, {"ids": np.array(ids), "vectors": vectors}, {"key": key, **note})
    console.print(
        f"{label}: {n_encoded:,} different texts, {encoded.n_tokens:,} tokens, {encoded.n_cut:,} texts cut, "
        f"{seconds:.1f} s ({n_encoded / seconds:,.0f} texts/s, {encoded.n_tokens / seconds:,.0f} tokens/s)"
    )
    return vectors


def _about(texts: Sequence[str], without: str) -> dict[str, Any]:
    return {"n_texts": len(texts), "n_without_text": texts.count(without), "texts_digest": texts_digest(texts)}


def _is_done(folder: Path, recipe: Mapping[str, Any]) -> bool:
    try:
        provenance = files.read_provenance(folder)
        files.check_files(folder, provenance)
    except KnowledgeError:
        return False
    # Through JSON, as knowledge.json went: tuples are lists there.
    same: bool = {key: provenance.get(key) for key in recipe} == json.loads(json.dumps(recipe))
    return same


def _rows_of(found: NDArray[np.str_], expected: Sequence[str], path: Path) -> NDArray[np.int64]:
    """int64 (len(expected),): the row of each expected id in `found`."""
    place = {identifier: row for row, identifier in enumerate(found.tolist())}
    missing = [identifier for identifier in expected if identifier not in place]
    foreign = sorted(place.keys() - set(expected))
    if missing or foreign or len(place) != len(found):
        raise KnowledgeError(
            f"{path}: {len(found)} ids, expected {len(expected)}: missing {_some(missing)}, foreign {_some(foreign)}, "
            f"{len(found) - len(place)} repeated"
        )
    return np.array([place[identifier] for identifier in expected], dtype=np.int64)


def _some(ids: Sequence[str]) -> str:
    return f"{len(ids)} ({', '.join(ids[:3])}{', …' if len(ids) > 3 else ''})" if ids else "none"
