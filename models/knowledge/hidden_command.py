"""`python -m models knowledge hidden`: hidden states of a local model for a file of requests, as answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from models.errors import KnowledgeError
from models.knowledge import endpoint_options as options
from models.knowledge import hidden_options
from models.knowledge.answer_cache import AnswerCache, default_cache
from models.knowledge.answers_folder import (
    ANSWERS,
    FORMAT,
    VECTORS,
    Checked,
    check_answers_folder,
    write_vector_rows,
)
from models.knowledge.batch import Request, read_requests
from models.knowledge.folder import PROVENANCE, sha256_of, write_json
from models.knowledge.hidden_options import Dtype, HiddenOptions, Pooling
from models.knowledge.ingest import common_subject
from models.knowledge.prompts import texts_digest
from models.knowledge.report import KEPT, reporting
from models.knowledge.requests import read_origin
from models.terminal import exit_codes, stderr_console


def hidden(
    requests: Annotated[Path, typer.Argument(help="File of requests, as `knowledge requests` writes it.")],
    out: Annotated[Path, typer.Option(help="Folder of answers to write; replaced if it holds the same paper's.")],
    model: Annotated[str, typer.Option(help="Folder of a transformers model, or its name in the hub's cache.")],
    layer: hidden_options.Layer = -1,
    pooling: hidden_options.Pool = Pooling.last_prompt_token,
    dtype: hidden_options.Numbers = Dtype.auto,
    revision: hidden_options.Revision = None,
    max_prompt_tokens: hidden_options.PromptTokens = 2048,
    max_new_tokens: hidden_options.NewTokens = 100,
    cache: options.Cache = None,
) -> None:
    """Read every prompt with a decoder on this machine and keep a hidden state, as LLM4MSR does.

    No endpoint gives these. What was read before is taken from the cache; a killed run goes on where it was.

    Examples:

    - `python -m models knowledge requests data/shop --paper llm4msr --out msr.jsonl`
    - `python -m models knowledge hidden msr.jsonl --model ./qwen2.5-1.5b --out knowledge/shop-msr`
    - `python -m models knowledge hidden msr.jsonl --model ./glm --pooling mean_prompt --layer -2 --out knowledge/glm`
    """
    console = stderr_console()
    with exit_codes(KEPT, console):
        asked = read_requests(requests)
        paper, dataset, _ = common_subject(asked)
        check_answers_folder(out, paper, dataset)
        if (out / ANSWERS).exists():
            raise KnowledgeError(f"{out}: holds answers in words, expected a new folder or one with vectors")
        from models.knowledge.hidden_states import HiddenStates

        chosen = HiddenOptions(layer, pooling, dtype, revision, max_prompt_tokens, max_new_tokens)
        with AnswerCache(cache or default_cache()) as kept:
            with console.status(f"loading {model}"):
                encoder = HiddenStates(model, kept, chosen)
            texts = list(dict.fromkeys(request.text for request in asked))
            with reporting(console, "prompts", "tokens") as report:
                states = dict(zip(texts, encoder.read(texts, report), strict=True))
        rows = [
            Checked(
                request.custom_id,
                states[request.text].vector,
                encoder.model,
                request.digest,
                texts_digest([request.text]),
                states[request.text].n_tokens,
            )
            for request in asked
        ]
        n_cut = sum(state.is_cut for state in states.values())
        origin = read_origin(requests) or {}
        _write(out, rows, asked, (paper, dataset), origin, encoder.describe(), n_cut)
        n_tokens = sum(state.n_tokens for state in states.values())
        console.print(f"{out}: {len(rows):,} vectors of {encoder.dim} numbers, {n_tokens:,} tokens, {n_cut:,} cut")


def _write(
    folder: Path,
    rows: Sequence[Checked],
    asked: Sequence[Request],
    subject: tuple[str, str],
    origin: dict[str, Any],
    about: dict[str, Any],
    n_cut: int,
) -> None:
    """vectors.npz, then knowledge.json, which says sha256 of it: a folder cut short is refused when it is loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    write_vector_rows(folder / VECTORS, rows)
    write_json(
        folder / PROVENANCE,
        {
            "format": FORMAT,
            "content": "answers",
            "paper": subject[0],
            "dataset": origin.get("dataset") or {"name": subject[1], "digest": None},
            "split": origin.get("split"),
            "prompts": origin.get("prompts"),
            "options": origin.get("options"),
            "models": {about["model"]: len(rows)},
            "hidden_states": about,
            "n_answers": dict(Counter(request.custom_id.split(":", 3)[2] for request in asked)),
            "n_open": 0,
            "prompts_digest": texts_digest(sorted(row.prompt_digest for row in rows)),
            "n_cut": n_cut,
            "tokens": {"prompt": sum(row.prompt_tokens for row in rows), "completion": 0},
            "files": {VECTORS: {"sha256": sha256_of(folder / VECTORS)}},
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
