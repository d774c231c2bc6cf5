"""Ray Serve: HTTP proxy in front of replicas that batch. `POST /`."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import Any

import orjson
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from loadtest.peers.model import Model


@serve.deployment
class Recommend:
    def __init__(self, folder: str, threads: int, batch: int, wait_s: float) -> None:
        self._model = Model(Path(folder), threads)
        self.answer.set_max_batch_size(batch)
        self.answer.set_batch_wait_timeout_s(wait_s)

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.0)
    async def answer(self, histories: list[list[str]]) -> list[dict[str, Any]]:
        return self._model.answer(histories)

    async def __call__(self, request: Request) -> Response:
        if request.method == "GET":
            return Response(b"{}")
        ask = orjson.loads(await request.body())
        return Response(orjson.dumps(await self.answer(ask["history"])), media_type="application/json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--wait-ms", type=float, default=0)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ray.init(num_cpus=4, include_dashboard=False, logging_level="warning")
    serve.start(http_options={"host": "127.0.0.1", "port": given.port})
    app = Recommend.options(  # type: ignore[attr-defined]
        num_replicas=given.workers, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.5}
    ).bind(given.folder, given.threads, given.batch, given.wait_ms / 1e3)
    try:
        serve.run(app, blocking=True, name="recommend")
    except KeyboardInterrupt:
        pass
    finally:
        serve.shutdown()
        ray.shutdown()
