"""Answers read back, each one checked, into a folder that the papers load.

Answers add up: another ingest into the same folder replaces what it answers anew and keeps the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models.errors import KnowledgeError
from models.knowledge.answers_folder import (
    ANSWERS,
    FORMAT,
    REQUEUE,
    VECTORS,
    Checked,
    check_answers_folder,
    read_rows,
    write_answer_rows,
    write_vector_rows,
)
from models.knowledge.batch import EMBEDDINGS, Answer, Request
from models.knowledge.budget import reported_tokens
from models.knowledge.folder import PROVENANCE, sha256_of, write_json
from models.knowledge.prompts import texts_digest
from models.knowledge.requests import origin_path, write_with_origin
from models.knowledge.validate import subject_of, value_of


@dataclass
class Collected:
    """The outcome of checking answers against their requests."""

    good: dict[str, Checked] = field(default_factory=dict)  # by custom_id
    bad: dict[str, str] = field(default_factory=dict)  # custom_id -> what is wrong
    missing: list[str] = field(default_factory=list)  # asked, without any answer
    foreign: int = 0  # answers to nothing that was asked, lines that cannot be read
    repeated: int = 0  # further answers to what was answered well already


def collect(requests: Sequence[Request], answers: Iterable[Answer]) -> Collected:
    """Every answer checked; the first good answer to a request counts, a bad one before or after it does not."""
    asked = {request.custom_id: request for request in requests}
    collected = Collected()
    for answer in answers:
        request = asked.get(answer.custom_id)
        if request is None:
            collected.foreign += 1
            continue
        if answer.custom_id in collected.good:
            collected.repeated += 1
            continue
        try:
            if answer.body is None:
                raise ValueError(answer.fault or "is missing")
            value = value_of(request, answer.body)
        except ValueError as error:
            collected.bad[answer.custom_id] = str(error)
            continue
        collected.bad.pop(answer.custom_id, None)
        collected.good[answer.custom_id] = Checked(
            answer.custom_id,
            value,
            str(answer.body.get("model") or request.model),
            request.digest,
            texts_digest([request.text]),
            *(reported_tokens(answer.body, name) for name in ("prompt_tokens", "completion_tokens")),
        )
    collected.missing = [
        custom_id for custom_id in asked if custom_id not in collected.good and custom_id not in collected.bad
    ]
    return collected


def ingest(
    requests: Sequence[Request], answers: Iterable[Answer], origin: Mapping[str, Any] | None, folder: Path
) -> Collected:
    """Writes the good answers to `folder`, and a new requests file with the others; gives what was found.

    Args:
        origin: the record beside the requests file; without one knowledge.json says that split and templates are
            unknown, and identifies the prompts by their texts alone.

    Raises:
        KnowledgeError: the requests are of several papers or datasets or of none that is known, or `folder` holds
            something else.
    """
    paper, dataset, is_embedding = common_subject(requests)
    check_answers_folder(folder, paper, dataset)
    collected = collect(requests, answers)
    digests = {request.custom_id: request.digest for request in requests}
    kept = {
        custom_id: checked
        for custom_id, checked in (read_rows(folder) if (folder / PROVENANCE).exists() else {}).items()
        if digests.get(custom_id, checked.prompt_digest) == checked.prompt_digest
    }
    merged = kept | collected.good
    open_requests = [request for request in requests if request.custom_id not in merged]
    collected.missing = [custom_id for custom_id in collected.missing if custom_id not in merged]
    collected.bad = {custom_id: why for custom_id, why in collected.bad.items() if custom_id not in merged}

    folder.mkdir(parents=True, exist_ok=True)
    if open_requests:
        write_with_origin(folder / REQUEUE, open_requests, None if origin is None else dict(origin))
    else:
        (folder / REQUEUE).unlink(missing_ok=True)
        origin_path(folder / REQUEUE).unlink(missing_ok=True)
    if not merged:
        return collected
    name = VECTORS if is_embedding else ANSWERS
    (write_vector_rows if is_embedding else write_answer_rows)(folder / name, list(merged.values()))
    models = Counter(checked.model for checked in merged.values())
    kinds = Counter(custom_id.split(":", 3)[2] for custom_id in merged)
    write_json(
        folder / PROVENANCE,
        {
            "format": FORMAT,
            "content": "answers",
            "paper": paper,
            "dataset": (origin or {}).get("dataset") or {"name": dataset, "digest": None},
            "split": (origin or {}).get("split"),
            "prompts": (origin or {}).get("prompts"),
            "options": (origin or {}).get("options"),
            "models": dict(models),
            "n_answers": dict(kinds),
            "n_open": len(open_requests),
            "prompts_digest": texts_digest(sorted(checked.prompt_digest for checked in merged.values())),
            "tokens": {
                "prompt": sum(checked.prompt_tokens for checked in merged.values()),
                "completion": sum(checked.completion_tokens for checked in merged.values()),
            },
            "files": {name: {"sha256": sha256_of(folder / name)}},
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
    return collected


def common_subject(requests: Sequence[Request]) -> tuple[str, str, bool]:
    """Paper and dataset all requests are of, and whether they ask for vectors; KnowledgeError if they differ."""
    subjects = [subject_of(request.custom_id) for request in requests]
    for request, subject in zip(requests, subjects, strict=True):
        if subject is None:
            raise KnowledgeError(
                f"custom_id '{request.custom_id}' names no known paper, expected paper:dataset:kind:id as "
                "`python -m models knowledge requests` writes them"
            )
        if (request.url == EMBEDDINGS) != (subject.paper.parse is None):
            raise KnowledgeError(f"custom_id '{request.custom_id}': url {request.url} is not what the paper asks for")
    found = {(subject.paper.name, subject.dataset) for subject in subjects if subject is not None}
    if len(found) != 1:
        told = ", ".join(f"{paper} of {dataset}" for paper, dataset in sorted(found)[:5])
        raise KnowledgeError(f"requests are of {told}; expected one paper and one dataset in a file")
    ((paper, dataset),) = found
    return paper, dataset, requests[0].url == EMBEDDINGS
