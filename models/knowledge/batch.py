"""Requests and answers as OpenAI Batch JSON Lines: one request or one answer a line, tied by `custom_id`.

Anybody may answer such a file: a hosted batch service, `python -m models knowledge ask`, or another program.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from models.errors import KnowledgeError

CHAT: Final = "/v1/chat/completions"
EMBEDDINGS: Final = "/v1/embeddings"
# Local servers leave what a reasoning model thought before its answer.
_THOUGHT: Final = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)


@dataclass(frozen=True)
class Request:
    """One call: where it goes, and the JSON body, `model` in it."""

    custom_id: str
    url: str
    body: Mapping[str, Any]

    @property
    def model(self) -> str:
        return str(self.body.get("model", ""))

    @property
    def digest(self) -> str:
        """sha256 (hex) of everything in the body but the model: prompt and settings."""
        return prompt_digest(self.body)

    @property
    def text(self) -> str:
        """What is sent to be read: the contents of the messages, or the input to embed."""
        if self.url == EMBEDDINGS:
            return str(self.body["input"])
        return "\n".join(str(message.get("content", "")) for message in self.body["messages"])


@dataclass(frozen=True)
class Answer:
    """What came back for one request: a body, or what went wrong instead."""

    custom_id: str
    body: Mapping[str, Any] | None
    fault: str | None = None


class AnswerProvider(Protocol):
    """Whoever answers requests: an endpoint, or a file that somebody filled."""

    def answers(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Answers in any order; a request without one is left out."""
        ...


class BatchFiles:
    """Answers that lie in batch files already."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths

    def answers(self, requests: Sequence[Request]) -> Iterator[Answer]:
        for path in self._paths:
            yield from read_answers(path)


def prompt_digest(body: Mapping[str, Any]) -> str:
    """sha256 (hex) of a request body without its model, whatever the order of its keys."""
    asked = {key: value for key, value in body.items() if key != "model"}
    return hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def chat_request(custom_id: str, model: str, prompt: str) -> Request:
    """A request for one chat completion of one user message."""
    return Request(custom_id, CHAT, {"model": model, "messages": [{"role": "user", "content": prompt}]})


def embedding_request(custom_id: str, model: str, text: str, dimensions: int | None = None) -> Request:
    """A request for the vector of one text; `dimensions` where the model can give fewer than it has."""
    shorter = {} if dimensions is None else {"dimensions": dimensions}
    return Request(custom_id, EMBEDDINGS, {"model": model, "input": text, **shorter})


def content_of(body: Mapping[str, Any]) -> str:
    """The text of a chat completion; ValueError says why it is not a whole one."""
    try:
        choice = body["choices"][0]
        content, reason = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError("is not a chat completion") from error
    if reason not in (None, "stop"):
        raise ValueError(f"was not finished: finish_reason {reason!r}")
    if isinstance(content, str):
        content = _THOUGHT.sub("", content)
    if not isinstance(content, str) or not content.strip():
        raise ValueError("is empty")
    return content


def read_requests(path: Path) -> list[Request]:
    """Every request of a batch file.

    Raises:
        KnowledgeError: a line is not a request or repeats a custom_id; the message names the line, counted from 1.
    """
    requests: dict[str, Request] = {}
    for number, line in _lines(path):
        try:
            raw = json.loads(line)
            request = Request(raw["custom_id"], raw["url"], dict(raw["body"]))
            good = isinstance(request.custom_id, str) and request.url in (CHAT, EMBEDDINGS) and request.text
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise KnowledgeError(f"{path}: line {number} is not a request ({type(error).__name__}: {error})") from error
        if not good:
            raise KnowledgeError(
                f"{path}: line {number} is not a request, expected a text, a custom_id and url {CHAT} or {EMBEDDINGS}"
            )
        if request.custom_id in requests:
            raise KnowledgeError(f"{path}: line {number} repeats custom_id '{request.custom_id}'")
        requests[request.custom_id] = request
    if not requests:
        raise KnowledgeError(f"{path}: holds no request")
    return list(requests.values())


def read_answers(path: Path) -> Iterator[Answer]:
    """Every answer of a batch file; a line that cannot be read becomes an answer with a fault and no custom_id."""
    for number, line in _lines(path):
        try:
            raw = json.loads(line)
            custom_id, response, error = raw["custom_id"], raw.get("response"), raw.get("error")
            if not isinstance(custom_id, str):
                raise TypeError("custom_id is no string")
        except (ValueError, KeyError, TypeError, AttributeError) as wrong:
            yield Answer("", None, f"line {number} of {path.name} is not an answer ({wrong})")
            continue
        if isinstance(response, dict) and response.get("status_code") == 200 and isinstance(response.get("body"), dict):
            yield Answer(custom_id, response["body"])
        else:
            status = response.get("status_code") if isinstance(response, dict) else None
            said = (error or {}).get("message") if isinstance(error, dict) else error
            yield Answer(custom_id, None, f"status {status}" + (f": {said}" if said else ""))


def write_requests(path: Path, requests: Iterable[Request]) -> int:
    """Writes a batch file whole or not at all; gives the number of requests."""
    return _write(
        path,
        (
            {"custom_id": request.custom_id, "method": "POST", "url": request.url, "body": dict(request.body)}
            for request in requests
        ),
    )


def write_answers(path: Path, answers: Iterable[Answer]) -> int:
    """Writes a file of answers whole or not at all; gives their number."""
    return _write(
        path,
        (
            {
                "custom_id": answer.custom_id,
                "response": None if answer.body is None else {"status_code": 200, "body": dict(answer.body)},
                "error": None if answer.fault is None else {"message": answer.fault},
            }
            for answer in answers
        ),
    )


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    try:
        with fresh.open("w", encoding="utf-8") as stream:
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    return count


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        # Only "\n" ends a line: answers may hold characters that str.splitlines takes for line ends.
        with path.open(encoding="utf-8", newline="\n") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise KnowledgeError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise KnowledgeError(f"{path}: is not UTF-8 ({error})") from error
