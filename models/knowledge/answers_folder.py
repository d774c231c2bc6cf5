"""The folder of checked answers on disk, and loading it.

knowledge.json    paper, dataset, split, prompts, models, counts, tokens, sha256 of the other file
answers.jsonl     chat: custom_id, kind, about, value, model, digests and tokens of one answer a line
vectors.npz       embeddings: custom_ids, vectors float16 (n, D), models, digests and tokens
requeue.jsonl     requests whose answers are missing or bad, as long as there are any
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.errors import KnowledgeError
from models.knowledge.folder import PROVENANCE, sha256_of

FORMAT: Final = 1
ANSWERS: Final = "answers.jsonl"
VECTORS: Final = "vectors.npz"
REQUEUE: Final = "requeue.jsonl"


@dataclass(frozen=True)
class Checked:
    """One good answer; `value` is a text, a list of texts or a float32 vector."""

    custom_id: str
    value: Any
    model: str
    prompt_digest: str
    text_digest: str
    prompt_tokens: int = 0  # as the provider reported them
    completion_tokens: int = 0


@dataclass(frozen=True)
class AnswerSet:
    """Answers of one folder by custom_id, with knowledge.json."""

    answers: Mapping[str, Checked]
    provenance: Mapping[str, Any]


def load_answers(folder: Path) -> AnswerSet:
    """The answers of a folder that `ingest` wrote.

    Raises:
        KnowledgeError: it holds no answers, or the file is not the one knowledge.json was written for.
    """
    provenance = answers_provenance(folder)
    for name, recorded in provenance["files"].items():
        if not (folder / name).is_file():
            raise KnowledgeError(f"{folder / name}: missing")
        if (found := sha256_of(folder / name)) != recorded["sha256"]:
            raise KnowledgeError(f"{folder / name}: sha256 is {found}, {PROVENANCE} says {recorded['sha256']}")
    return AnswerSet(read_rows(folder), provenance)


def answers_provenance(folder: Path) -> dict[str, Any]:
    """knowledge.json of a folder of answers, KnowledgeError if it is none."""
    try:
        provenance = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    except OSError as error:
        raise KnowledgeError(f"{folder}: no {PROVENANCE} ({error.strerror}), expected a folder of answers") from error
    except ValueError as error:
        raise KnowledgeError(f"{folder / PROVENANCE}: not JSON ({error})") from error
    if not isinstance(provenance, dict) or provenance.get("content") != "answers":
        raise KnowledgeError(f"{folder}: holds no answers; expected what `python -m models knowledge ingest` writes")
    return provenance


def check_answers_folder(folder: Path, paper: str, dataset: str) -> None:
    """Nothing if answers of `paper` to `dataset` may go to `folder`, else KnowledgeError."""
    if folder.exists() and not folder.is_dir():
        raise KnowledgeError(f"{folder}: is a file, expected a folder to write answers to")
    if (folder / PROVENANCE).exists():
        provenance = answers_provenance(folder)
        if (found := (provenance["paper"], provenance["dataset"]["name"])) != (paper, dataset):
            raise KnowledgeError(f"{folder}: holds answers of {' of '.join(found)}, expected {paper} of {dataset}")


def write_answer_rows(path: Path, rows: Sequence[Checked]) -> None:
    """Writes answers.jsonl whole or not at all."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with fresh.open("w", encoding="utf-8") as stream:
        for row in rows:
            _, _, kind, about = row.custom_id.split(":", 3)
            line = {"custom_id": row.custom_id, "kind": kind, "about": about, "value": row.value, "model": row.model}
            digests = {"prompt_digest": row.prompt_digest, "text_digest": row.text_digest}
            tokens = {"prompt_tokens": row.prompt_tokens, "completion_tokens": row.completion_tokens}
            stream.write(json.dumps({**line, **digests, **tokens}, ensure_ascii=False) + "\n")
    os.replace(fresh, path)


def write_vector_rows(path: Path, rows: Sequence[Checked]) -> None:
    """Writes vectors.npz whole or not at all; KnowledgeError if the rows are of several models or lengths."""
    if len(lengths := {len(row.value) for row in rows}) != 1 or len({row.model for row in rows}) != 1:
        raise KnowledgeError(
            f"vectors of {sorted(lengths)} dimensions from models {sorted({row.model for row in rows})}; "
            "expected one model and one length in a folder"
        )
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp.npz")
    np.savez_compressed(
        fresh,
        custom_ids=np.array([row.custom_id for row in rows]),
        prompt_digests=np.array([row.prompt_digest for row in rows]),
        text_digests=np.array([row.text_digest for row in rows]),
        models=np.array([row.model for row in rows]),
        prompt_tokens=np.array([row.prompt_tokens for row in rows], dtype=np.int64),
        vectors=np.stack([row.value for row in rows]).astype(np.float16),
    )
    os.replace(fresh, path)


def read_rows(folder: Path) -> dict[str, Checked]:
    """The rows of a folder by custom_id, without looking at knowledge.json."""
    if (folder / VECTORS).exists():
        with np.load(folder / VECTORS, allow_pickle=False) as arrays:
            names = ("models", "prompt_digests", "text_digests", "prompt_tokens")
            columns = [arrays[name].tolist() for name in names]
            ids, vectors = arrays["custom_ids"].tolist(), arrays["vectors"].astype(np.float32)
        return {one: Checked(one, *rest) for one, *rest in zip(ids, vectors, *columns, strict=True)}
    with (folder / ANSWERS).open(encoding="utf-8", newline="\n") as stream:
        rows = [json.loads(line) for line in stream]
    entries = [entry.name for entry in fields(Checked)]
    return {row["custom_id"]: Checked(*(row[name] for name in entries)) for row in rows}
