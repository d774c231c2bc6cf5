"""`/v1/rank` and `/v1/rank/batch`: the caller's candidates in the order of a scenario's ranker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from service.api.asks import told
from service.api.body import parse, parse_json, read_body
from service.api.documented import documented, ref
from service.api.problems import problem
from service.api.recommend import PROBLEMS, start_deadline
from service.api.schemas import MAX_SUB_REQUESTS, BatchRequest, RankBatchReply, RankReply, RankRequest
from service.ask import RankAsk
from service.deadline import Deadline
from service.errors import RequestError
from service.logs import describe
from service.ranking import RankAnswer
from service.service import Service

PATH, BATCH_PATH = "/v1/rank", "/v1/rank/batch"


def rank_ask(document: Any) -> RankAsk:
    """What `RankRequest` says of the document.

    Raises:
        ValidationFailed, MalformedJson: see `parse`.
    """
    request = parse(document, RankRequest)
    return RankAsk(
        request.candidates,
        request.scenario,
        request.user_id,
        request.session_id,
        told(request.history),
        request.degrade == "never",
    )


def as_document(answer: RankAnswer) -> dict[str, Any]:
    """The answer in the shape of `schemas.RankReply`."""
    ranker, ordered, candidates = answer.choice.ranker, answer.ordered, answer.candidates
    places: Sequence[int] = range(len(candidates)) if ordered is None else ordered.places.tolist()
    scores = [None] * len(candidates) if ordered is None else ordered.scores
    index_of, longest = ranker.artefact.index_of, ranker.manifest.ranker.max_seq_len
    return {
        "recommendation_id": answer.recommendation_id,
        "items": [
            {"item_id": candidates[place], "score": score, "rank": rank}
            for rank, (place, score) in enumerate(zip(places, scores, strict=True), start=1)
        ],
        "served": {
            "tier": answer.tier,
            "degraded": answer.degraded,
            "reasons": answer.reasons,
            "ranker": {"name": ranker.name, "version": ranker.version},
            "scenario": answer.scenario.name,
            "state": answer.behaviour.source,
            "history_used": 0 if ordered is None else min(len(answer.behaviour.items), longest),
            "unknown_items": answer.behaviour.n_unknown,
            "unknown_candidates": sum(item_id not in index_of for item_id in candidates),
            "user_z": "none" if ordered is None else ordered.user_z,
        },
        "timing_ms": {stage: round(duration_ms, 3) for stage, duration_ms in answer.stage_ms.items()},
        "budget_ms": {"granted": answer.deadline.granted_ms, "left": round(answer.deadline.left_ms, 3)},
    }


def add_rank(app: FastAPI, service: Service) -> None:
    async def rank(request: Request) -> Response:
        """Candidates of the caller, best first; those that the ranker does not know come last."""
        recommender, record = service.recommender, request.state.record
        ask = rank_ask(parse_json(await request.body()))
        deadline = start_deadline(record, service, recommender.registry.scenario(ask.scenario).deadline_ms)
        record.fields["user"] = service.pseudonyms.of(ask.user_id)
        answer = await recommender.ranking.rank(ask, deadline, crowded=record.crowded)
        document = as_document(answer)
        record.fields |= {**document["served"], "n_items": len(document["items"])}
        return Response(orjson.dumps(document), media_type="application/json", headers={"X-Served-Tier": answer.tier})

    async def batch(request: Request) -> Response:
        """Up to 256 requests in one document, under one deadline; a bad one fails alone."""
        recommender, record = service.recommender, request.state.record
        deadline = start_deadline(record, service, service.settings.batch_deadline_ms)
        body = await read_body(request, BatchRequest)
        slots = asyncio.Semaphore(2 * service.settings.max_batch)

        async def answer_one(document: Any) -> dict[str, Any]:
            async with slots:
                return await _answer_one(document, deadline)

        async def _answer_one(document: Any, deadline: Deadline) -> dict[str, Any]:
            try:
                answer = await recommender.ranking.rank(rank_ask(document), deadline, bulk=True)
            except RequestError as error:
                service.metrics.batch_rows.labels(str(error.status)).inc()
                return problem(error, record.request_id)
            except Exception as error:
                service.log.error("internal_error", request_id=record.request_id, **describe(error))
                fault = RequestError("Something went wrong on our side.")
                service.metrics.batch_rows.labels(str(fault.status)).inc()
                return problem(fault, record.request_id)
            service.metrics.batch_rows.labels("200").inc()
            return {"status": 200, **as_document(answer)}

        results = await asyncio.gather(*map(answer_one, body.requests))
        return Response(orjson.dumps({"results": results}), media_type="application/json")

    schema = BatchRequest.model_json_schema() | {
        "properties": {
            "requests": {"type": "array", "minItems": 1, "maxItems": MAX_SUB_REQUESTS, "items": ref(RankRequest)}
        }
    }
    app.add_api_route(PATH, rank, methods=["POST"], **documented(RankReply, body=RankRequest, problems=PROBLEMS))
    app.add_api_route(
        BATCH_PATH, batch, methods=["POST"], **documented(RankBatchReply, body_schema=schema, problems=PROBLEMS)
    )
