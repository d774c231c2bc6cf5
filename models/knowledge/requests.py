"""The requests file of one paper and dataset, with a record of where its prompts come from."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, Final

from models.data.dataset import Dataset
from models.data.splits import Split
from models.errors import KnowledgeError
from models.knowledge.batch import Request, chat_request, embedding_request, write_requests
from models.knowledge.folder import write_json
from models.knowledge.prompts import PAPERS, Options, texts_digest

MAX_ID: Final = 512  # characters of a custom_id that batch services take


def make_requests(dataset: Dataset, split: Split, paper: str, model: str, options: Options) -> list[Request]:
    """One request per question of the paper; the custom_id stays the same whenever the question is asked again.

    Raises:
        KnowledgeError: there is nothing to ask, or an id that cannot be part of a custom_id.
    """
    if ":" in dataset.name:
        raise KnowledgeError(f"dataset '{dataset.name}': its name is part of every custom_id and may not hold ':'")
    make = chat_request if PAPERS[paper].parse else embedding_request
    requests = [
        make(f"{paper}:{dataset.name}:{question.kind}:{question.about}", model, question.text)
        for question in PAPERS[paper].questions(dataset, split, options)
    ]
    if not requests:
        raise KnowledgeError(f"dataset '{dataset.name}': {paper} has nothing to ask about the training part")
    longest = max(requests, key=lambda request: len(request.custom_id))
    if len(longest.custom_id) > MAX_ID:
        raise KnowledgeError(f"custom_id '{longest.custom_id[:60]}…' is longer than {MAX_ID} characters")
    return requests


def describe_requests(
    dataset: Dataset, split: Split, paper: str, options: Options, requests: list[Request]
) -> dict[str, Any]:
    """What the answers' knowledge.json will say of the prompts: templates, digests, dataset, split, choice."""
    kinds = Counter(request.custom_id.split(":", 3)[2] for request in requests)
    return {
        "paper": paper,
        "dataset": {"name": dataset.name, "digest": dataset.digest},
        "split": split.name,
        "prompts": {
            kind: {
                **template.describe(),
                "n_texts": kinds[kind],
                "texts_digest": texts_digest(
                    [request.text for request in requests if request.custom_id.split(":", 3)[2] == kind]
                ),
            }
            for kind, template in PAPERS[paper].templates.items()
        },
        "options": {
            "n_named_users": None if options.users is None else len(options.users),
            "limit": options.limit,
            "seed": options.seed,
            "goods": options.goods,
            "descriptions": dict(options.descriptions),
        },
    }


def write_with_origin(path: Path, requests: list[Request], origin: dict[str, Any] | None) -> None:
    """Writes the requests, and their origin beside them; without one, an older record there is removed."""
    write_requests(path, requests)
    if origin is None:
        origin_path(path).unlink(missing_ok=True)
    else:
        write_json(origin_path(path), origin)


def origin_path(requests: Path) -> Path:
    """Where the origin of a requests file is recorded: `x.jsonl` -> `x.origin.json`."""
    return requests.with_name(requests.name.removesuffix(".jsonl") + ".origin.json")


def read_origin(requests: Path) -> dict[str, Any] | None:
    """The record beside a requests file, None if somebody else wrote the requests."""
    path = origin_path(requests)
    if not path.exists():
        return None
    try:
        origin = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KnowledgeError(f"{path}: not JSON ({error})") from error
    if not isinstance(origin, dict) or not {"paper", "dataset", "split", "prompts"} <= origin.keys():
        raise KnowledgeError(f"{path}: expected the record that `python -m models knowledge requests` writes")
    return origin
