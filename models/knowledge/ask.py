"""Answers from an endpoint by way of the cache: what was answered once is not asked again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from models.knowledge.answer_cache import AnswerCache
from models.knowledge.batch import EMBEDDINGS, Answer, Request
from models.knowledge.endpoint import Endpoint
from models.knowledge.report import reporting
from models.knowledge.validate import packed_vector, value_of, vectors_of


class EndpointAnswers:
    """Answers requests from `cache`, the rest by `endpoint`; only answers of the right form are kept.

    Each answer is in the cache before the next one is awaited, so a kill loses the calls in flight at most. Afterwards
    `stopped` says why it stopped early, if it did, and `n_cached` how many answers needed no call.
    """

    def __init__(self, endpoint: Endpoint, cache: AnswerCache, console: Console, model: str | None = None) -> None:
        """`model` is asked instead of the one a request names."""
        self._endpoint = endpoint
        self._cache = cache
        self._console = console
        self._model = model
        self.stopped: str | None = None
        self.n_cached = 0

    def answers(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Answers in the order of the requests, faults among them; requests that were not asked are left out."""
        addressed = [self._addressed(request) for request in requests]
        bodies: dict[tuple[str, str], Mapping[str, Any]] = {}
        faults: dict[tuple[str, str], str] = {}
        todo: dict[tuple[str, str], Request] = {}
        for request in addressed:
            if (key := (request.model, request.digest)) in bodies or key in todo:
                continue
            kept = self._cache.get(*key)
            if kept is not None and _is_good(request, kept):
                bodies[key] = kept
            else:
                todo[key] = request
        n_kept = len(bodies)
        self.n_cached = sum((request.model, request.digest) in bodies for request in addressed)

        with reporting(self._console, "answers", "requests", self._endpoint.budget.summary) as report:

            def done(request: Request, body: dict[str, Any] | None, fault: str | None) -> None:
                key = (request.model, request.digest)
                if body is None:
                    faults[key] = fault or "no answer"
                else:
                    bodies[key] = _compact(request, body)
                    self._cache.put(*key, bodies[key])
                report(len(bodies) - n_kept + len(faults), len(todo))

            self.stopped = self._endpoint.send(todo.values(), value_of, done) if todo else None
        for request in addressed:
            key = (request.model, request.digest)
            if key in bodies:
                yield Answer(request.custom_id, bodies[key])
            elif key in faults:
                yield Answer(request.custom_id, None, faults[key])

    def _addressed(self, request: Request) -> Request:
        if self._model is None:
            return request
        return dataclasses.replace(request, body={**request.body, "model": self._model})


def _is_good(request: Request, body: Mapping[str, Any]) -> bool:
    try:
        value_of(request, body)
    except ValueError:
        return False  # kept under rules that were weaker
    return True


def _compact(request: Request, body: dict[str, Any]) -> dict[str, Any]:
    if request.url != EMBEDDINGS:
        return body
    return {**body, "data": [{"index": 0, "embedding": packed_vector(vectors_of(body, 1)[0])}]}
