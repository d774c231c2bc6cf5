from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from service.artefact.directory import Artefact
from service.ask import Told
from service.behaviour import behaviour_from_request, behaviour_from_store
from service.served_model import ServedModel
from service.state.store import NewestLooks

A, B, C, D = 1, 2, 3, 4


def with_source(models: dict[str, ServedModel], source: Any) -> Artefact:
    artefact = models["napkin"].artefact
    return replace(artefact, manifest=artefact.manifest.model_copy(update={"history_source": source}))


def event(item_id: str, ts: float, kind: str = "view", event_id: str | None = None) -> tuple[str, str, str]:
    return event_id or f"{item_id}{ts}", kind, item_id


def looks(*events: tuple[str, str, str]) -> NewestLooks:
    return NewestLooks(*zip(*events, strict=True))


def test_the_requests_history_keeps_its_order_and_its_repeats(models: dict[str, ServedModel]) -> None:
    history = Told(["c", "a", "nobody", "c"])

    behaviour = behaviour_from_request(history, models["napkin"].artefact, now=100)

    assert behaviour.items == [C, A, C]
    assert behaviour.seen == {A, C}
    assert behaviour.n_unknown == 1
    assert behaviour.source == "request"


def test_times_order_the_requests_history_and_an_entry_without_time_is_from_now(
    models: dict[str, ServedModel],
) -> None:
    history = Told(["a", "b", "c", "d"], [None] * 4, [50.0, None, 10.0, 50.0])

    assert behaviour_from_request(history, models["napkin"].artefact, now=100).items == [C, A, D, B]


def test_only_event_types_that_the_model_counts_are_history(models: dict[str, ServedModel]) -> None:
    history = Told(["a", "b", "c"], ["impression", "click", None])

    assert behaviour_from_request(history, models["napkin"].artefact, now=100).items == [B, C]

    stored = looks(event("a", 1, "impression"), event("b", 2, "purchase")), NewestLooks()
    assert behaviour_from_store(*stored, models["napkin"].artefact, "redis").items == [B]


@pytest.mark.parametrize(
    ("source", "expected"), [("user", [A, B]), ("session", [C, D]), ("user+session", [A, B, C, D])]
)
def test_the_manifest_says_whose_history_is_read(
    models: dict[str, ServedModel], source: str, expected: list[int]
) -> None:
    stored = looks(event("a", 1), event("b", 4)), looks(event("c", 2), event("d", 3))

    behaviour = behaviour_from_store(*stored, with_source(models, source), "redis")

    assert behaviour.items == expected
    assert behaviour.seen == {A, B, C, D}  # seen is seen, whoever's history the model reads


@pytest.mark.parametrize("source", ["user", "session", "user+session"])
def test_the_only_history_there_is_stands_in_for_the_one_asked_for(models: dict[str, ServedModel], source: str) -> None:
    artefact = with_source(models, source)

    assert behaviour_from_store(looks(event("a", 1)), NewestLooks(), artefact, "redis").items == [A]
    assert behaviour_from_store(NewestLooks(), looks(event("b", 1)), artefact, "redis").items == [B]


def test_an_event_of_both_user_and_session_counts_once_and_the_visit_stays_in_one_piece(
    models: dict[str, ServedModel],
) -> None:
    both = event("b", 3, event_id="logged-in")
    stored = looks(event("a", 1), both), looks(event("c", 2), both, event("d", 4))

    behaviour = behaviour_from_store(*stored, with_source(models, "user+session"), "redis")

    assert behaviour.items == [A, C, B, D]
