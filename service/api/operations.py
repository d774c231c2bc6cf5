"""What operators and their machines ask: models, health, metrics."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import FastAPI
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from service.api.documented import documented
from service.api.schemas import LiveReply, ModelsReply, ReadyReply
from service.errors import Draining, NotReady
from service.inference.retriever import has_attention
from service.registry import Registry
from service.served_model import ServedModel
from service.served_ranker import ServedRanker
from service.service import Service


def add_operations(app: FastAPI, service: Service) -> None:
    def reply(document: dict[str, Any]) -> Response:
        return Response(orjson.dumps(document), media_type="application/json")

    async def models(request: Request) -> Response:
        """Loaded models and the scenarios they answer."""
        registry = service.recommender.registry
        return reply(
            {
                "models": [_model(model) for model in registry.models],
                "rankers": [_ranker(ranker) for ranker in registry.rankers],
                "scenarios": _scenarios(registry),
            }
        )

    async def livez() -> Response:
        """200 as long as the event loop answers. Knows nothing of Redis: its outage must not restart anything."""
        return reply({"status": "alive"})

    async def readyz(request: Request, verbose: str | None = None) -> Response:
        """200 once every model has reproduced its golden answers, 503 before and while draining.

        An unreachable state store leaves the service ready: it answers from lower tiers.
        """
        if service.readiness.draining:
            raise Draining("The service is about to stop.", retry_after_s=1)
        if not service.readiness.loaded:
            raise NotReady("The models are being loaded and checked.", retry_after_s=1)
        if not service.readiness.engine:
            raise NotReady("The engine process is away.", retry_after_s=1)
        if verbose is None:
            return reply({"status": "ready"})
        state = "ok" if await service.state_answers() else "unavailable, answers are degraded"
        return reply({"status": "ready", "checks": {"models": "ok", "state": state}})

    async def metrics() -> Response:
        """Prometheus text format."""
        return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    app.add_api_route("/v1/models", models, methods=["GET"], **documented(ModelsReply, problems=(503,)))
    app.add_api_route("/livez", livez, methods=["GET"], **documented(LiveReply))
    app.add_api_route("/readyz", readyz, methods=["GET"], **documented(ReadyReply, problems=(422, 503)))
    app.add_api_route("/metrics", metrics, methods=["GET"], **documented("text/plain"))


def _model(model: ServedModel) -> dict[str, Any]:
    manifest = model.manifest
    return {
        "name": model.name,
        "version": model.version,
        "sha256": model.sha256,
        "paper": manifest.paper,
        "encoder": manifest.encoder.kind,
        "device": model.device,
        "top_k": model.top_k,
        "top_k_recall": model.top_k_recall,
        "n_items": manifest.n_items,
        "dim": manifest.encoder.dim,
        "max_seq_len": manifest.encoder.max_seq_len,
        "history_source": manifest.history_source,
        "history_events": manifest.history_events,
        "explanations": _explanations(model),
        "metrics": manifest.metrics,
        "dataset": manifest.dataset,
    }


def _ranker(ranker: ServedRanker) -> dict[str, Any]:
    manifest = ranker.manifest
    return {
        "name": ranker.name,
        "version": ranker.version,
        "sha256": ranker.sha256,
        "paper": manifest.paper,
        "kind": manifest.ranker.kind,
        "device": ranker.device,
        "n_items": manifest.n_items,
        "max_seq_len": manifest.ranker.max_seq_len,
        "scenarios": manifest.ranker.scenarios,
        "told_users": 0 if manifest.user_z is None else manifest.user_z.n_users,
        "metrics": manifest.metrics,
        "dataset": manifest.dataset,
    }


def _explanations(model: ServedModel) -> dict[str, Any]:
    phrases = model.artefact.phrases
    return {
        "phrases": len(phrases.texts) if phrases else 0,
        "similarity_floor": phrases.similarity_floor if phrases else None,
        "categories": any(model.artefact.categories),
        "because": has_attention(model.manifest),
        "intents": model.artefact.intent_items is not None,
    }


def _scenarios(registry: Registry) -> list[dict[str, Any]]:
    return [
        {
            "name": scenario.name,
            "default": scenario.name == registry.default,
            "model": {"name": scenario.model.name, "version": scenario.model.version},
            "count": scenario.count,
            "deadline_ms": scenario.deadline_ms,
            "seen": scenario.seen,
            "categories": scenario.categories,
            "ranker": None
            if (choice := scenario.ranker) is None
            else {"name": choice.ranker.name, "version": choice.ranker.version},
            "candidates": None if choice is None else choice.candidates,
        }
        for scenario in registry.scenarios.values()
    ]
