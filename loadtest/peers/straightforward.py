"""The service as a competent user writes it: FastAPI, ONNX Runtime, Redis; orjson, uvloop, one pipeline.

`POST /recommend {"history": [...]}` or `{"user_id": "..."}`, which reads Redis. The model runs in threads, so that the
loop goes on, or in the loop itself: for a run shorter than the way to a thread and back that is the faster choice.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import redis.asyncio as redis
import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel

from loadtest.peers.model import MAX_SEQ_LEN, Model


class Ask(BaseModel):
    history: list[str] | None = None
    user_id: str | None = None


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.model = Model(Path(os.environ["MODEL_FOLDER"]), int(os.environ["MODEL_THREADS"]))
    at_once = int(os.environ["MODEL_POOL"])
    app.state.pool = ThreadPoolExecutor(at_once) if at_once else None
    url = os.environ.get("MODEL_REDIS")
    app.state.redis = redis.from_url(url, decode_responses=True) if url else None
    gc.collect()
    gc.freeze()
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/ready")
async def ready() -> Response:
    return Response(b"{}", media_type="application/json")


@app.post("/recommend")
async def recommend(ask: Ask) -> Response:
    history = ask.history
    if history is None:
        async with app.state.redis.pipeline(transaction=False) as pipe:
            pipe.lrange(f"history:{ask.user_id}", -MAX_SEQ_LEN, -1)
            pipe.expire(f"history:{ask.user_id}", 86_400)
            history, _ = await pipe.execute()
    if app.state.pool is None:
        replies = app.state.model.answer([history])
    else:
        loop = asyncio.get_running_loop()
        replies = await loop.run_in_executor(app.state.pool, app.state.model.answer, [history])
    return Response(orjson.dumps(replies[0]), media_type="application/json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", default="1")
    parser.add_argument("--pool", default="1", help="model runs at the same time in one worker; 0: in the loop itself")
    parser.add_argument("--redis", default="")
    given = parser.parse_args()
    os.environ |= {"MODEL_FOLDER": given.folder, "MODEL_THREADS": given.threads, "MODEL_POOL": given.pool}
    os.environ["MODEL_REDIS"] = given.redis
    uvicorn.run(
        "loadtest.peers.straightforward:app",
        port=given.port,
        workers=given.workers,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
