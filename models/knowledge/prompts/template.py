"""What a prompt is made from, and what stays the same about a question from one run to the next."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from models.data.dataset import Dataset
from models.data.splits import Split

T = TypeVar("T")


@dataclass(frozen=True)
class PromptTemplate:
    """A sentence with gaps, where it comes from, and the limits that shape it."""

    text: str
    source: str
    limits: tuple[tuple[str, Any], ...]

    @property
    def digest(self) -> str:
        """sha256 (hex) over the text and the limits; another template or limit gives another digest."""
        return hashlib.sha256(json.dumps([self.text, self.limits]).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """What knowledge.json says of the template."""
        return {"template": self.text, "source": self.source, "limits": dict(self.limits), "digest": self.digest}


@dataclass(frozen=True)
class Question:
    """One prompt: `kind` names its template, `about` the user, item, scenario or prefix it is about."""

    kind: str
    about: str
    text: str


@dataclass(frozen=True)
class Options:
    """Which questions are asked, and the words that depend on the shop."""

    users: frozenset[str] | None = None  # only these users; None: all
    limit: int | None = None  # a seeded sample of at most this many users or prefixes
    seed: int = 7
    goods: str = "products"  # what is sold, as in "These are the ... one customer bought"
    descriptions: Mapping[str, str] = field(default_factory=dict)  # scenario name -> what it sells
    prefixes: frozenset[str] | None = None  # llm4sbr: only these, named as its questions are `about` them


@dataclass(frozen=True)
class Paper:
    """The questions one paper asks of a language model, and what counts as an answer.

    `questions` quotes of the interactions only what `split.train` holds. `parse` (kind, text) gives the JSON value of
    an answer, ValueError saying what is wrong with it; None where the answer is a vector.
    """

    name: str
    templates: Mapping[str, PromptTemplate]
    questions: Callable[[Dataset, Split, Options], list[Question]]
    parse: Callable[[str, str], Any] | None


def texts_digest(texts: Sequence[str]) -> str:
    """sha256 (hex) over texts in order; changes when one text changes."""
    total = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()


def numbered(titles: Sequence[str]) -> str:
    """One numbered line per title, counted from 1."""
    return "\n".join(f"{number}. {title}" for number, title in enumerate(titles, 1))


def sampled(rows: Sequence[T], options: Options) -> list[T]:
    """All rows, or `options.limit` of them drawn by `options.seed` and kept in order."""
    if options.limit is None or options.limit >= len(rows):
        return list(rows)
    chosen = np.random.default_rng(options.seed).choice(len(rows), options.limit, replace=False)
    return [rows[row] for row in sorted(chosen.tolist())]


def sentence(text: str, longest: int, *, words: tuple[int, int] = (1, 100_000)) -> str:
    """`text` on one line; ValueError if it is empty, too long, too short, or a refusal instead of an answer."""
    clean = re.sub(r"\s+", " ", text).strip()
    if not clean or clean.lower() in ("none", "none.", "unknown", "n/a"):
        raise ValueError("is empty")
    if re.match(r"(i'?m|i am) (sorry|unable|not able)|i (cannot|can'?t|can ?not)\b|as an ai\b", clean.lower()):
        raise ValueError(f"refuses: {clean[:60]!r}")
    if len(clean) > longest:
        raise ValueError(f"has {len(clean)} characters, expected at most {longest}")
    if not words[0] <= len(clean.split()) <= words[1]:
        raise ValueError(f"has {len(clean.split())} words, expected {words[0]} to {words[1]}")
    return clean
