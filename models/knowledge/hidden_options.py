"""Which hidden state of a model is kept: options of every command that reads one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

_PANEL: Final = "Hidden states"


class Pooling(StrEnum):
    """Whose state is the vector."""

    last_prompt_token = "last_prompt_token"
    mean_prompt = "mean_prompt"
    last_gen_token = "last_gen_token"


class Dtype(StrEnum):
    """Numbers the model computes with."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass(frozen=True)
class HiddenOptions:
    """Which state is kept.

    layer: as in transformers' hidden_states: 0 is the embeddings, -1 the last layer (after its final norm).
    pooling: `last_prompt_token` is deterministic and one pass; `mean_prompt` the mean over the prompt; `last_gen_token`
        the last token of a greedy continuation, which is what the published code seems to take.
    dtype: of the computation; auto is float32 on a CPU and bfloat16 on a GPU. Vectors are kept as float16.
    max_tokens: longer prompts lose their beginning, because the question stands at their end.
    """

    layer: int = -1
    pooling: Pooling = Pooling.last_prompt_token
    dtype: Dtype = Dtype.auto
    revision: str | None = None
    max_tokens: int = 2048
    max_new_tokens: int = 100


Layer = Annotated[
    int, typer.Option(help="0 is the embeddings, -1 the last layer after its norm.", rich_help_panel=_PANEL)
]
Pool = Annotated[Pooling, typer.Option(help="Whose state is the vector.", rich_help_panel=_PANEL)]
Numbers = Annotated[Dtype, typer.Option(help="auto: float32 on a CPU, bfloat16 on a GPU.", rich_help_panel=_PANEL)]
Revision = Annotated[str | None, typer.Option(help="Commit or tag of a model of the hub.", rich_help_panel=_PANEL)]
PromptTokens = Annotated[int, typer.Option(min=1, help="Longer prompts lose their beginning.", rich_help_panel=_PANEL)]
NewTokens = Annotated[int, typer.Option(min=1, help="Of last_gen_token: continuation at most.", rich_help_panel=_PANEL)]


def digest_of_states(about: Mapping[str, Any]) -> str:
    """sha256 (hex) of what decides a vector, from the `hidden_states` of a knowledge.json: an encoder's digest."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
