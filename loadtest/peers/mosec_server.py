"""mosec: a native front, worker processes, dynamic batching. `POST /inference`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import orjson
from mosec import Server, Worker

from loadtest.peers.model import Model


class Recommend(Worker):
    """One process with the model."""

    def __init__(self) -> None:
        super().__init__()
        self._model = Model(Path(os.environ["MODEL_FOLDER"]), int(os.environ["MODEL_THREADS"]))

    def deserialize(self, data: bytes) -> Any:
        return orjson.loads(data)

    def serialize(self, data: Any) -> bytes:
        return orjson.dumps(data)

    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return self._model.answer([ask["history"] for ask in data])


class RecommendOne(Recommend):
    """Without batching mosec hands over single requests."""

    def forward(self, data: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        return self._model.answer([data["history"]])[0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--port", required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--threads", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--wait-ms", type=int, default=0)
    given = parser.parse_args()
    environment = {"MODEL_FOLDER": given.folder, "MODEL_THREADS": given.threads}
    os.environ |= environment
    sys.argv = [sys.argv[0], "--port", given.port, "--capacity", "4096", "--timeout", "60000", "--log-level", "warning"]
    server = Server()
    if given.batch > 1:
        server.append_worker(Recommend, num=given.workers, max_batch_size=given.batch, max_wait_time=given.wait_ms)
    else:
        server.append_worker(RecommendOne, num=given.workers)
    server.run()
