"""Answers about typical users, as `ingest` leaves them, made up for a small dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.knowledge.answers_folder import AnswerSet, Checked


def answers_of(
    dataset: str, interests: Mapping[str, list[str]], *, split: str | None = "leave_one_out", **rest: Any
) -> AnswerSet:
    """An answer set with the interests of some users."""
    return AnswerSet(
        {
            f"eimf:{dataset}:user:{user}": Checked(f"eimf:{dataset}:user:{user}", texts, "some-llm", "p", "t")
            for user, texts in interests.items()
        },
        {
            "paper": "eimf",
            "dataset": {"name": dataset, "digest": None},
            "split": split,
            "prompts": None,
            "models": {"some-llm": len(interests)},
            "prompts_digest": "digest",
            **rest,
        },
    )
