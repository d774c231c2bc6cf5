"""Documents to asks. The schemas decide what is right; plain documents, nearly all there are, skip them.

Building models of a history of 50 costs more than the rest of a request together. So a document is first read by hand,
and whatever is unusual about it, right or wrong, goes to its schema: only that one ever says no.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Any

from service.api.body import parse
from service.api.schemas import (
    MAX_COUNT,
    MAX_EXCLUDED,
    MAX_HISTORY,
    Exclude,
    ModelChoice,
    PastEvent,
    RecommendRequest,
    SimilarRequest,
)
from service.ask import Ask, SimilarAsk, Told

_FIELDS = RecommendRequest.model_fields.keys() - {"model", "explain", "diversity"}
_EXCLUDE_FIELDS = Exclude.model_fields.keys()
_EVENT_FIELDS = {"item_id", "type", "ts"}
_ID_BYTES = (string.ascii_letters + string.digits + "_.:@-").encode()
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_TYPE = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)


def recommend_ask(document: Any) -> Ask:
    """What `RecommendRequest` says of the document.

    Raises:
        ValidationFailed, MalformedJson: see `parse`.
    """
    ask = plain_ask(document)
    if ask is not None:
        return ask
    request = parse(document, RecommendRequest)
    return Ask(
        request.scenario,
        request.user_id,
        request.session_id,
        told(request.history),
        request.count,
        request.exclude.item_ids,
        request.exclude.seen,
        _choice(request.model),
        request.degrade == "never",
        request.explain,
        request.diversity,
    )


def told(history: Sequence[PastEvent] | None) -> Told | None:
    """The history of a request as the online path takes it."""
    if history is None:
        return None
    return Told(
        [event.item_id for event in history], [event.type for event in history], [event.ts for event in history]
    )


def similar_ask(document: Any) -> SimilarAsk:
    """What `SimilarRequest` says of the document.

    Raises:
        ValidationFailed, MalformedJson: see `parse`.
    """
    request = parse(document, SimilarRequest)
    return SimilarAsk(
        request.item_ids,
        request.scenario,
        request.count,
        request.exclude.item_ids,
        _choice(request.model),
        request.degrade == "never",
    )


def plain_ask(document: Any) -> Ask | None:
    """The same as the schema would make of a plain document; None for any other."""
    if type(document) is not dict or not document.keys() <= _FIELDS:
        return None
    get = document.get
    scenario, user_id, session_id, count, history = map(get, ("scenario", "user_id", "session_id", "count", "history"))
    if not (scenario is None or (type(scenario) is str and _NAME.fullmatch(scenario))):
        return None
    if not (count is None or (type(count) is int and 1 <= count <= MAX_COUNT)):
        return None
    degrade = get("degrade", "allow")
    if degrade != "allow" and degrade != "never":
        return None
    if not _are_ids([owner for owner in (user_id, session_id) if owner is not None]):
        return None
    told = None
    if history is not None and (told := _told(history)) is None:
        return None
    exclude, seen = (), None
    if "exclude" in document:
        given = document["exclude"]
        if type(given) is not dict or not given.keys() <= _EXCLUDE_FIELDS:
            return None
        exclude, seen = given.get("item_ids", ()), given.get("seen")
        if type(exclude) not in (list, tuple) or len(exclude) > MAX_EXCLUDED or not _are_ids(exclude):
            return None
        if not (seen is None or type(seen) is bool):
            return None
    return Ask(scenario, user_id, session_id, told, count, exclude, seen, None, degrade == "never")


def _told(history: Any) -> Told | None:
    if type(history) is not list or len(history) > MAX_HISTORY:
        return None
    try:
        item_ids = [event["item_id"] for event in history]
        if sum(map(len, history)) != len(history):
            if not all(event.keys() <= _EVENT_FIELDS for event in history):
                return None
            types = [event.get("type") for event in history]
            times = [event.get("ts") for event in history]
            for kind in set(types):
                if not (kind is None or (type(kind) is str and _TYPE.fullmatch(kind))):
                    return None
            if not {type(ts) for ts in times} <= {float, int, type(None)}:
                return None
            return Told(item_ids, types, times) if _are_ids(item_ids) else None
    except (TypeError, KeyError, AttributeError, IndexError):
        return None
    return Told(item_ids) if _are_ids(item_ids) else None


def _are_ids(texts: Sequence[Any]) -> bool:
    """Whether all are strings of 1 to 128 characters out of those that ids have."""
    if not texts:
        return True
    try:
        characters = "".join(texts)
        lengths = list(map(len, texts))
        return min(lengths) >= 1 and max(lengths) <= 128 and not characters.encode().translate(None, _ID_BYTES)
    except (TypeError, UnicodeEncodeError):
        return False


def _choice(choice: ModelChoice | None) -> tuple[str, str | None] | None:
    return None if choice is None else (choice.name, choice.version)
