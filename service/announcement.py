"""What the command says once it serves."""

from __future__ import annotations

from typing import Any

import orjson

from service.registry import Registry


def announcement(registry: Registry, host: str, port: int) -> str:
    """What is served, and a request that works, with an item that exists."""
    lines = []
    for scenario in registry.scenarios.values():
        model = scenario.model
        items = f"{model.manifest.n_items} items"
        recall = "" if model.top_k_recall is None else f", recall@20 {model.top_k_recall:.3f}"
        lines.append(
            f"scenario {scenario.name}: {model.name}@{model.version}, {items}, {model.device}, "
            f"top-k {model.top_k}{recall}"
        )
    scenario = registry.scenario(registry.default or next(iter(registry.scenarios)))
    popular, _ = scenario.model.popular.best(1, scenario.model.artefact.available.nonzero()[0][:0])
    item_id = scenario.model.artefact.item_ids[int(popular[0]) if len(popular) else 1]
    request: dict[str, Any] = {"history": [{"item_id": item_id}], "count": 5}
    if registry.default is None:
        request["scenario"] = scenario.name
    where = f"[{host}]" if ":" in host else {"0.0.0.0": "127.0.0.1"}.get(host, host)
    lines.append("ready; try:")
    lines.append(
        f"  curl -s http://{where}:{port}/v1/recommend -H 'content-type: application/json' "
        f"-d '{orjson.dumps(request).decode()}'"
    )
    return "\n".join(lines)
