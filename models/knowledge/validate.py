"""Whether the body of a response answers its request, and what it says."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.knowledge.batch import EMBEDDINGS, Request, content_of
from models.knowledge.prompts import PAPERS, Paper


class Subject(NamedTuple):
    """What a custom_id says: `paper:dataset:kind:about`."""

    paper: Paper
    dataset: str
    kind: str
    about: str


def subject_of(custom_id: str) -> Subject | None:
    """The subject of one of our requests (`llm4sbr:beauty:long:user:U1:prefix:3`), None for other custom_ids."""
    paper, *rest = custom_id.split(":", 3)
    if paper not in PAPERS or len(rest) != 3 or rest[1] not in PAPERS[paper].templates or not rest[2]:
        return None
    return Subject(PAPERS[paper], *rest)


def value_of(request: Request, body: Mapping[str, Any]) -> Any:
    """The checked answer: what the paper's parser makes of the text, or a float32 vector.

    Raises:
        ValueError: the body is not a whole answer of the right form; the message completes "the answer …".
    """
    if request.url == EMBEDDINGS:
        return vectors_of(body, 1)[0]
    content = content_of(body)
    subject = subject_of(request.custom_id)
    if subject is None or subject.paper.parse is None:
        return content
    return subject.paper.parse(subject.kind, content)


def vectors_of(body: Mapping[str, Any], n: int) -> NDArray[np.float32]:
    """float32 (n, D) of an embeddings response, in the order of its inputs; ValueError says what is wrong."""
    try:
        rows = sorted(body["data"], key=lambda row: row.get("index", 0))
        vectors = [_vector(row["embedding"]) for row in rows]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError("is not a list of embeddings") from error
    if len(vectors) != n:
        raise ValueError(f"has {len(vectors)} vectors, expected {n}")
    if len({vector.shape for vector in vectors}) != 1 or vectors[0].ndim != 1 or not vectors[0].size:
        raise ValueError("has vectors of no or of different lengths")
    stacked = np.stack(vectors)
    if not (np.abs(stacked) <= np.finfo(np.float16).max).all():
        raise ValueError("has a value that is not finite or beyond float16")
    return stacked


def packed_vector(vector: NDArray[np.float32]) -> str:
    """The base64 form that the protocol knows beside the list of numbers; a third of its size."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def _vector(embedding: Any) -> NDArray[np.float32]:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4").astype(np.float32)
    return np.asarray(embedding, dtype=np.float32)
