"""MLServer: a custom runtime over the Open Inference Protocol. `POST /v2/models/recommend/infer`.

One BYTES element a request holds the history, ids separated by blanks, which is its fastest way to carry strings.
"""

from __future__ import annotations

import os
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse, RequestOutput, ResponseOutput

from loadtest.peers.model import Model

__all__ = ["Recommend", "RequestOutput"]


class Recommend(MLModel):
    async def load(self) -> bool:
        self._model = Model(Path(os.environ["MODEL_FOLDER"]), int(os.environ["MODEL_THREADS"]))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        histories = [text.split() for text in StringCodec.decode_input(payload.inputs[0])]
        replies = self._model.answer(histories)
        n = len(replies)
        item_ids = [item_id for reply in replies for item_id in reply["item_ids"]]
        scores = [score for reply in replies for score in reply["scores"]]
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                ResponseOutput(name="item_ids", shape=[n, len(item_ids) // n], datatype="BYTES", data=item_ids),
                ResponseOutput(name="scores", shape=[n, len(scores) // n], datatype="FP32", data=scores),
            ],
        )
