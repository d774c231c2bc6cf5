"""Options of every command that calls an endpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from models.errors import KnowledgeError
from models.knowledge.budget import Budget, Prices
from models.knowledge.endpoint import Endpoint

_PANEL: Final = "Endpoint"

BaseUrl = Annotated[
    str | None,
    typer.Option(help="OpenAI-compatible endpoint, for example http://127.0.0.1:8000/v1.", rich_help_panel=_PANEL),
]
KeyEnv = Annotated[
    str | None,
    typer.Option(help="Environment variable that holds the key; none: no key is sent.", rich_help_panel=_PANEL),
]
Cache = Annotated[
    Path | None,
    typer.Option(help="Folder of kept answers.", show_default="your cache folder", rich_help_panel=_PANEL),
]
Concurrency = Annotated[int, typer.Option(min=1, help="Calls in flight at once.", rich_help_panel=_PANEL)]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds for one call.", rich_help_panel=_PANEL)]
MaxCalls = Annotated[
    int | None, typer.Option(min=1, help="Stop before more calls than this, repeats counted.", rich_help_panel=_PANEL)
]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="Stop before more tokens than this.", rich_help_panel=_PANEL)
]
Price = Annotated[
    tuple[float, float] | None,
    typer.Option(
        metavar="IN OUT", help="Dollars per million tokens read and written, to show the cost.", rich_help_panel=_PANEL
    ),
]


def endpoint(
    base_url: str | None,
    key_env: str | None,
    concurrency: int,
    timeout_s: float,
    max_calls: int | None,
    max_tokens: int | None,
    price: tuple[float, float] | None,
) -> Endpoint:
    """The endpoint the options describe; KnowledgeError if the address or the key is missing."""
    if base_url is None:
        raise KnowledgeError("no endpoint: name one with --base-url, for example http://127.0.0.1:8000/v1")
    key = None
    if key_env is not None and not (key := os.environ.get(key_env, "").strip()):
        raise KnowledgeError(f"environment variable {key_env} is not set, expected the key for {base_url}")
    return Endpoint(
        base_url,
        key,
        budget=Budget(max_calls, max_tokens, Prices(*price) if price else None),
        concurrency=concurrency,
        timeout_s=timeout_s,
    )
