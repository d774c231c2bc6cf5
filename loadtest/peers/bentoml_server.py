"""BentoML: `bentoml serve loadtest.peers.bentoml_server:Recommend`, settings by environment. `POST /recommend`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import bentoml

from loadtest.peers.model import Model

_BATCH = int(os.environ.get("MODEL_BATCH", "1"))


@bentoml.service(
    workers=int(os.environ.get("MODEL_WORKERS", "1")), traffic={"timeout": 60}, logging={"access": {"enabled": False}}
)
class Recommend:
    def __init__(self) -> None:
        self._model = Model(Path(os.environ["MODEL_FOLDER"]), int(os.environ["MODEL_THREADS"]))

    if _BATCH > 1:

        @bentoml.api(batchable=True, max_batch_size=_BATCH, max_latency_ms=1000)
        def recommend(self, histories: list[list[str]]) -> list[dict[str, Any]]:
            return self._model.answer(histories)

    else:

        @bentoml.api
        def recommend(self, histories: list[list[str]]) -> list[dict[str, Any]]:
            return self._model.answer(histories)
