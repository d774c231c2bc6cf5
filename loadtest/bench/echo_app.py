"""The yardstick for HTTP alone: a stock FastAPI route that parses the service's request and sends it back."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel


class Event(BaseModel):
    item_id: str


class Ask(BaseModel):
    history: list[Event]
    count: int


app = FastAPI()


@app.get("/ready")
async def ready() -> dict[str, str]:
    return {}


@app.post("/echo", response_model=Ask)
async def echo(ask: Ask) -> Ask:
    return ask
