"""Plain documents are read by hand; the schema must agree with every one that is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.asks import plain_ask, recommend_ask
from service.api.schemas import RecommendRequest
from service.ask import Ask, Told
from service.errors import ValidationFailed

TEXT = st.one_of(st.sampled_from(["a", "u-1", "x" * 128, "x" * 129, "", "a b", "é", "a\n", "s.c"]), st.text(max_size=4))
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 300), st.floats(allow_nan=False), TEXT, st.just([]), st.just({})
)
EVENT = st.one_of(
    st.fixed_dictionaries({"item_id": TEXT}),
    st.fixed_dictionaries({"item_id": TEXT}, optional={"type": st.one_of(TEXT, ODD), "ts": ODD, "more": ODD}),
    ODD,
)
EXCLUDE = st.one_of(st.fixed_dictionaries({}, optional={"item_ids": st.one_of(st.lists(TEXT), ODD), "seen": ODD}), ODD)
DOCUMENT = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "scenario": ODD,
            "user_id": st.one_of(TEXT, ODD),
            "session_id": ODD,
            "history": st.one_of(st.lists(EVENT, max_size=4), ODD),
            "count": ODD,
            "exclude": EXCLUDE,
            "degrade": st.one_of(st.sampled_from(["allow", "never"]), ODD),
            "explain": ODD,
            "diversity": ODD,
            "more": ODD,
        },
    ),
    ODD,
)


@given(DOCUMENT)
def test_what_is_read_by_hand_is_what_the_schema_says(document: Any) -> None:
    ask = plain_ask(document)
    if ask is None:
        return
    request = RecommendRequest.model_validate(document)
    assert (ask.scenario, ask.user_id, ask.session_id) == (request.scenario, request.user_id, request.session_id)
    assert (ask.count, ask.never_degrade, ask.model) == (request.count, request.degrade == "never", None)
    assert (ask.explain, ask.diversity) == (request.explain, request.diversity)
    assert (list(ask.exclude), ask.exclude_seen) == (request.exclude.item_ids, request.exclude.seen)
    if request.history is None:
        assert ask.history is None
        return
    assert ask.history is not None
    n_events = len(request.history)
    assert list(ask.history.item_ids) == [event.item_id for event in request.history]
    assert list(ask.history.types or [None] * n_events) == [event.type for event in request.history]
    assert list(ask.history.times or [None] * n_events) == [event.ts for event in request.history]


def test_usual_documents_are_read_by_hand() -> None:
    plain = {"history": [{"item_id": "a"}, {"item_id": "b"}], "count": 20}
    full = {
        "scenario": "home",
        "user_id": "u@x:1",
        "session_id": "s",
        "history": [{"item_id": "a", "type": "view", "ts": 12.5}, {"item_id": "b"}],
        "exclude": {"item_ids": ["c"], "seen": False},
        "degrade": "never",
    }

    assert plain_ask(plain) == Ask(history=Told(["a", "b"]), count=20)
    assert plain_ask(full) == Ask(
        "home", "u@x:1", "s", Told(["a", "b"], ["view", None], [12.5, None]), None, ["c"], False, None, True
    )


def test_an_unusual_document_is_the_schemas_to_judge() -> None:
    assert plain_ask({"model": {"name": "m"}}) is None
    assert recommend_ask({"model": {"name": "m"}}).model == ("m", None)
    with pytest.raises(ValidationFailed):
        recommend_ask({"count": 0})
