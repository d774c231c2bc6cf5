"""Answers as bytes: encoded once, in the shape of `schemas.RecommendReply`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from starlette.responses import Response

from service.explainer import Explanation
from service.inference.reading import IntentItems
from service.recommender import Answer


def as_document(answer: Answer) -> dict[str, Any]:
    item_ids = answer.model.artefact.item_ids
    picked = answer.picked
    picked_ids = map(item_ids.__getitem__, picked.items.tolist())
    document: dict[str, Any] = {
        "recommendation_id": answer.recommendation_id,
        "items": [
            {"item_id": item_id, "score": score, "rank": rank}
            for item_id, score, rank in zip(picked_ids, picked.scores, range(1, len(picked.scores) + 1), strict=True)
        ],
        "served": {
            "tier": picked.tier,
            "degraded": answer.degraded,
            "reasons": answer.reasons,
            "model": {"name": answer.model.name, "version": answer.model.version},
            "scenario": answer.scenario.name,
            "state": answer.behaviour.source,
            "history_used": answer.history_used,
            "unknown_items": answer.behaviour.n_unknown,
            "filtered_out": len(answer.hidden),
            "top_k_recall": answer.model.top_k_recall if picked.tier == "model" else None,
        },
        "timing_ms": {stage: round(duration_ms, 3) for stage, duration_ms in answer.stage_ms.items()},
        "budget_ms": {"granted": answer.deadline.granted_ms, "left": round(answer.deadline.left_ms, 3)},
    }
    if answer.ordered is not None and (choice := answer.scenario.ranker) is not None:
        document["served"] |= {
            "ranker": {"name": choice.ranker.name, "version": choice.ranker.version},
            "unranked": answer.ordered.n_unranked,
        }
    if answer.diversity:
        document["served"]["diversity"] = answer.diversity if picked.tier == "model" else 0.0
    if answer.explain:
        document["served"]["explained"] = answer.explanations is not None
    if answer.explanations is not None:
        for item, explanation in zip(document["items"], answer.explanations, strict=True):
            item["explanation"] = _explanation(explanation, item_ids)
    if answer.intents is not None:
        document["intents"] = _intents(answer.intents, item_ids)
    return document


def _explanation(explanation: Explanation, item_ids: Sequence[str]) -> dict[str, Any]:
    """Only the parts that are known."""
    told: dict[str, Any] = {"query": explanation.query}
    if (interest := explanation.interest) is not None:
        told["interest"] = {"kind": "category", "text": interest.text}
        if interest.similarity is not None:
            told["interest"] |= {"kind": "phrase", "similarity": round(interest.similarity, 4)}
    if (because := explanation.because) is not None:
        told["because"] = {"item_id": item_ids[because.item_index], "weight": round(because.weight, 4)}
    return told


def _intents(intents: IntentItems, item_ids: Sequence[str]) -> dict[str, Any]:
    return {
        view: [
            {"item_id": item_ids[index], "similarity": round(cosine, 4)}
            for index, cosine in zip(items, cosines, strict=True)
        ]
        for view, items, cosines in zip(
            ("long", "short"), intents.items.tolist(), intents.cosines.tolist(), strict=True
        )
    }


def encode(answer: Answer) -> bytes:
    return orjson.dumps(as_document(answer))


def head_lines(answer: Answer, n_bytes: int) -> bytes:
    """Lines of the headers of an answer of that size."""
    return b"content-type: application/json\r\ncontent-length: %d\r\nx-served-tier: %s\r\nserver-timing: %s\r\n" % (
        n_bytes,
        answer.picked.tier.encode(),
        _server_timing(answer).encode(),
    )


def as_response(answer: Answer) -> Response:
    headers = {"x-served-tier": answer.picked.tier, "server-timing": _server_timing(answer)}
    return Response(encode(answer), headers=headers, media_type="application/json")


def _server_timing(answer: Answer) -> str:
    return ", ".join([f"{stage};dur={duration_ms:.2f}" for stage, duration_ms in answer.stage_ms.items()])


def log_fields(answer: Answer) -> dict[str, Any]:
    """Enough to know why these items: with the artefact, the history decides the rest."""
    return {
        "recommendation_id": answer.recommendation_id,
        "scenario": answer.scenario.name,
        "tier": answer.picked.tier,
        "degraded": answer.degraded,
        "reasons": answer.reasons,
        "model": answer.model.name,
        "version": answer.model.version,
        "state": answer.behaviour.source,
        "history_used": answer.history_used,
        "unknown_items": answer.behaviour.n_unknown,
        "filtered_out": len(answer.hidden),
        "n_items": len(answer.picked.items),
        "stages": {stage: round(duration_ms, 3) for stage, duration_ms in answer.stage_ms.items()},
        "budget_ms": answer.deadline.granted_ms,
    }
