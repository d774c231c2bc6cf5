"""Encoders whose vectors come from elsewhere: an endpoint's embedding model, or vectors somebody has sent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import KnowledgeError
from models.knowledge.answer_cache import AnswerCache
from models.knowledge.answers_folder import load_answers
from models.knowledge.batch import EMBEDDINGS, Request, embedding_request
from models.knowledge.budget import reported_tokens
from models.knowledge.encoders import Encoded, Report
from models.knowledge.endpoint import Endpoint, estimated_tokens
from models.knowledge.prompts import texts_digest
from models.knowledge.validate import packed_vector, vectors_of

TEXTS_PER_CALL: Final = 64
TOKENS_PER_CALL: Final = 32_000  # estimated; servers refuse batches that are too large
_PROBE: Final = "afterglow"  # embedded once to learn how many dimensions the model gives


class EndpointEncoder:
    """A TextEncoder that asks `endpoint` for what `cache` does not hold; `model` decides the vectors.

    Each text is cached alone, in the same form as the answer to one request of a batch file.
    """

    test_only: Final = False

    def __init__(self, endpoint: Endpoint, cache: AnswerCache, model: str, dimensions: int | None = None) -> None:
        """Embeds one word (once per cache) to learn the number of dimensions.

        Args:
            dimensions: for models that can give fewer than they have.

        Raises:
            KnowledgeError: the endpoint does not answer.
        """
        self._endpoint = endpoint
        self._cache = cache
        self._model = model
        self._dimensions = dimensions
        self.name = f"openai:{model}"
        self.dim = self.encode([_PROBE]).vectors.shape[1]
        if dimensions not in (None, self.dim):
            raise KnowledgeError(f"encoder '{self.name}': gives {self.dim} dimensions, expected {dimensions}")
        self.digest = hashlib.sha256(f"openai-compatible embeddings: {model}, {self.dim}".encode()).hexdigest()

    def encode(self, texts: Sequence[str], report: Report | None = None) -> Encoded:
        """Vectors float32 (texts, dim) as the model gives them; how much it cuts off it does not say.

        Raises:
            KnowledgeError: the budget ended, or a text got no vector; what arrived is cached, the next run goes on.
        """
        rows = [embedding_request("", self._model, text, self._dimensions) for text in texts]
        kept = {row: body for row, request in enumerate(rows) if (body := self._cached(request)) is not None}
        sizes = [estimated_tokens(request) for request in rows]
        done_tokens = sum(sizes[row] for row in kept)
        faults: list[str] = []

        def done(batch: Request, body: dict[str, Any] | None, fault: str | None) -> None:
            nonlocal done_tokens
            members = [int(row) for row in batch.custom_id.split()]
            if body is None:
                faults.append(fault or "no answer")
                return
            weights = np.cumsum([0, *(sizes[row] for row in members)])
            shares = np.diff(weights * reported_tokens(body, "prompt_tokens") // weights[-1])  # sums to what was read
            for row, vector, share in zip(members, vectors_of(body, len(members)), shares.tolist(), strict=True):
                kept[row] = {
                    "model": body.get("model", self._model),
                    "data": [{"index": 0, "embedding": packed_vector(vector)}],
                    "usage": {"prompt_tokens": share},
                }
                self._cache.put(self._model, rows[row].digest, kept[row])
            done_tokens += sum(sizes[row] for row in members)
            if report is not None:
                report(done_tokens, sum(sizes))

        todo = [row for row in range(len(rows)) if row not in kept]
        stopped = self._endpoint.send(self._batches(todo, texts, sizes), _check, done) if todo else None
        if len(kept) < len(rows):
            raise KnowledgeError(
                f"encoder '{self.name}': {len(kept):,} of {len(rows):,} texts have a vector: "
                f"{stopped or faults[-1]}; the same command goes on from there"
            )
        vectors = [vectors_of(kept[row], 1)[0] for row in range(len(rows))]
        if len({len(vector) for vector in vectors}) > 1:
            raise KnowledgeError(f"encoder '{self.name}': gives vectors of different lengths")
        return Encoded(
            np.stack(vectors) if vectors else np.zeros((0, self.dim), dtype=np.float32),
            n_tokens=sum(reported_tokens(body, "prompt_tokens") for body in kept.values()),
            n_cut=0,
        )

    def _cached(self, request: Request) -> dict[str, Any] | None:
        body = self._cache.get(self._model, request.digest)
        try:
            return body if body is not None and len(vectors_of(body, 1)) else None
        except ValueError:
            return None

    def _batches(self, todo: Sequence[int], texts: Sequence[str], sizes: Sequence[int]) -> Iterator[Request]:
        """One request per batch; its custom_id lists the rows."""
        batch: list[int] = []
        for row in [*todo, -1]:
            full = len(batch) == TEXTS_PER_CALL or sum(sizes[one] for one in [*batch, row]) > TOKENS_PER_CALL
            if batch and (full or row < 0):  # -1 stands after the last row
                shorter = {} if self._dimensions is None else {"dimensions": self._dimensions}
                body = {"model": self._model, "input": [texts[one] for one in batch], **shorter}
                yield Request(" ".join(map(str, batch)), EMBEDDINGS, body)
                batch = []
            batch.append(row)


class AnsweredEncoder:
    """A TextEncoder that looks vectors up in a folder of ingested embeddings."""

    test_only: Final = False

    def __init__(self, folder: Path) -> None:
        """Raises KnowledgeError if the folder holds no vectors."""
        answers = load_answers(folder)
        rows = list(answers.answers.values())
        if not rows or not isinstance(rows[0].value, np.ndarray):
            raise KnowledgeError(f"{folder}: holds answers in words, expected vectors (llm-esr)")
        self._folder = folder
        self._vectors: dict[str, NDArray[np.float32]] = {row.text_digest: row.value for row in rows}
        self._tokens = {row.text_digest: row.prompt_tokens for row in rows}
        self.name = f"openai:{rows[0].model}"
        self.dim = len(rows[0].value)
        content = hashlib.sha256()
        for text_digest, vector in sorted(self._vectors.items(), key=lambda entry: entry[0]):
            content.update(text_digest.encode() + vector.tobytes())
        self.digest = content.hexdigest()

    def encode(self, texts: Sequence[str], report: Report | None = None) -> Encoded:
        """Vectors float32 (texts, dim); KnowledgeError counts the texts that have none."""
        digests = [texts_digest([text]) for text in texts]
        missing = [text for text, digest in zip(texts, digests, strict=True) if digest not in self._vectors]
        if missing:
            raise KnowledgeError(
                f"{self._folder}: no vector for {len(missing):,} of {len(texts):,} texts, the first is "
                f"{missing[0][:60]!r}; write requests for this dataset and split and ingest their answers"
            )
        vectors = [self._vectors[digest] for digest in digests]
        return Encoded(
            np.stack(vectors) if vectors else np.zeros((0, self.dim), dtype=np.float32),
            n_tokens=sum(self._tokens[digest] for digest in digests),
            n_cut=0,
        )


def _check(request: Request, body: dict[str, Any]) -> object:
    return vectors_of(body, len(request.body["input"]))
