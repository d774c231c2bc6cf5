"""Phrases of a language model that name interests, in the space of the item table: two files of an artefact."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.artefact.manifest import ItemTableSpec, PhrasesSpec
from service.artefact.tables import open_table


@dataclass(frozen=True)
class InterestPhrases:
    """Row-aligned texts and vectors; a query is named by the phrase nearest to it by cosine, if it is near enough."""

    texts: list[str]  # n_phrases
    vectors: NDArray[np.float32]  # (n_phrases, dim); of an artefact memory-mapped
    similarity_floor: float  # least cosine at which a phrase names a query


def write_phrases(folder: Path, phrases: InterestPhrases) -> PhrasesSpec:
    """Writes both files into `folder`; what the manifest says of them."""
    spec = PhrasesSpec(n_phrases=len(phrases.texts), similarity_floor=phrases.similarity_floor)
    np.save(folder / spec.file, np.ascontiguousarray(phrases.vectors, dtype=np.float32))
    texts = json.dumps(phrases.texts, ensure_ascii=False, indent=0)
    (folder / spec.texts).write_text(texts + "\n", encoding="utf-8")
    return spec


def read_phrases(folder: Path, spec: PhrasesSpec, dim: int) -> tuple[InterestPhrases | None, list[str]]:
    """The phrases of an artefact, or none and why."""
    table = ItemTableSpec(file=spec.file, dtype="float32", shape=[spec.n_phrases, dim], meaning="interest phrases")
    vectors, faults = open_table(folder / spec.file, table)
    try:
        texts = json.loads((folder / spec.texts).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        return None, [*faults, f"{spec.texts}: is not JSON ({error})"]
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        faults.append(f"{spec.texts}: expected a list of texts, none of them empty")
    elif len(texts) != spec.n_phrases:
        faults.append(f"{spec.texts}: holds {len(texts)} texts, the manifest says {spec.n_phrases}")
    return (None, faults) if faults or vectors is None else (InterestPhrases(texts, vectors, spec.similarity_floor), [])
