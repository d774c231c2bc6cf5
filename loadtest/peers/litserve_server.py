"""LitServe: FastAPI in front, worker processes behind a queue. `POST /predict`."""

import argparse
from pathlib import Path
from typing import Any

import litserve as ls

from loadtest.peers.model import Model


class Recommend(ls.LitAPI):
    def __init__(self, folder: str, threads: int, **batching: Any) -> None:
        super().__init__(**batching)
        self._folder, self._threads = folder, threads

    def setup(self, device: str) -> None:
        self._model = Model(Path(self._folder), self._threads)

    def decode_request(self, request: dict[str, Any]) -> list[str]:
        return request["history"]

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def predict(self, x: Any) -> Any:
        if self.max_batch_size > 1:
            return self._model.answer(x)
        return self._model.answer([x])[0]

    def encode_response(self, output: Any) -> Any:
        return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--wait-ms", type=float, default=0)
    given = parser.parse_args()
    api = Recommend(given.folder, given.threads, max_batch_size=given.batch, batch_timeout=given.wait_ms / 1e3)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=given.workers, timeout=60, fast_queue=True)
    server.run(port=given.port, host="127.0.0.1", generate_client_file=False, log_level="warning", access_log=False)
