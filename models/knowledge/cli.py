"""`python -m models knowledge …`: ask a language model, read answers back, build vectors, show where they come from."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from models.data.dataset import read_dataset
from models.data.splits import SPLITS
from models.errors import KnowledgeError
from models.knowledge import answer_commands, hidden_options, intent_commands, interest_commands
from models.knowledge import endpoint_options as options
from models.knowledge.answer_cache import AnswerCache, default_cache
from models.knowledge.answers_folder import answers_provenance
from models.knowledge.embeddings import AnsweredEncoder, EndpointEncoder
from models.knowledge.encoders import HashEncoder, TextEncoder
from models.knowledge.folder import read_provenance
from models.knowledge.hidden_command import hidden
from models.knowledge.hidden_options import Dtype, HiddenOptions, Pooling
from models.knowledge.meta_command import meta
from models.knowledge.minilm import MiniLM
from models.knowledge.report import KEPT
from models.knowledge.store import N_COMPONENTS, N_SIMILAR, build_knowledge
from models.terminal import exit_codes, stderr_console

app = typer.Typer(
    help="What a language model says of items and users, as vectors.",
    rich_markup_mode="markdown",
    no_args_is_help=True,
)


app.command("requests")(answer_commands.requests)
app.command("ask")(answer_commands.ask)
app.command("ingest")(answer_commands.ingest)
app.command("exemplars")(interest_commands.exemplars)
app.command("interests")(interest_commands.interests)
app.command("prefixes")(intent_commands.prefixes)
app.command("intents")(intent_commands.intents)
app.command("hidden")(hidden)
app.command("meta")(meta)


@app.command()
def build(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write; kept if it already holds the same knowledge.")],
    encoder: Annotated[
        str,
        typer.Option(
            help="`minilm`: all-MiniLM-L6-v2, 384 dimensions. `openai:MODEL`: an embedding model of the endpoint. "
            "`answers:FOLDER`: vectors that were ingested. `transformers:MODEL`: hidden states of a local model. "
            "`hash`: for tests only."
        ),
    ] = "minilm",
    split: Annotated[
        str, typer.Option(help=f"User prompts quote its training part only: {', '.join(SPLITS)}.")
    ] = "leave_one_out",
    similar: Annotated[int, typer.Option(min=1, help="Similar users kept for each user.")] = N_SIMILAR,
    components: Annotated[int, typer.Option(min=1, help="Principal components kept of the items.")] = N_COMPONENTS,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Batches encoded at once.", show_default="cores available")
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="Dimensions to ask of `openai:MODEL`.", show_default="the model's")
    ] = None,
    base_url: options.BaseUrl = None,
    key_env: options.KeyEnv = None,
    cache: options.Cache = None,
    concurrency: options.Concurrency = 8,
    timeout: options.Timeout = 120.0,
    max_calls: options.MaxCalls = None,
    max_tokens: options.MaxTokens = None,
    price: options.Price = None,
    layer: hidden_options.Layer = -1,
    pooling: hidden_options.Pool = Pooling.mean_prompt,
    dtype: hidden_options.Numbers = Dtype.auto,
    revision: hidden_options.Revision = None,
    max_prompt_tokens: hidden_options.PromptTokens = 2048,
    max_new_tokens: hidden_options.NewTokens = 100,
) -> None:
    """Encode item and user prompts, their principal components and each user's similar users.

    Interrupted builds go on where they were. The first use of `minilm` exports the model into your cache directory.

    Examples:

    - `python -m models knowledge build $AFTERGLOW_DATA/amazon_beauty --out $AFTERGLOW_KNOWLEDGE/amazon_beauty/minilm`
    - `python -m models knowledge build data/shop --out knowledge/shop --split global_time --similar 20`
    - `python -m models knowledge build data/shop --out knowledge/shop --encoder openai:nomic-embed-text --base-url http://127.0.0.1:11434/v1`
    """
    console = stderr_console()
    with exit_codes(KEPT, console):
        if split not in SPLITS:
            raise KnowledgeError(f"split {split!r} is unknown, expected one of {', '.join(SPLITS)}")
        read = read_dataset(dataset)
        split_of = SPLITS[split](read)
        with ExitStack() as opened:
            detail = None
            chosen: TextEncoder
            if encoder == "hash":
                chosen = HashEncoder()
            elif encoder == "minilm":
                chosen = _minilm(console, threads)
            elif encoder.startswith("answers:"):
                chosen = AnsweredEncoder(Path(encoder.removeprefix("answers:")))
            elif encoder.startswith("openai:"):
                endpoint = options.endpoint(base_url, key_env, concurrency, timeout, max_calls, max_tokens, price)
                kept = opened.enter_context(AnswerCache(cache or default_cache()))
                chosen = EndpointEncoder(endpoint, kept, encoder.removeprefix("openai:"), dimensions)
                detail = endpoint.budget.summary
            elif encoder.startswith("transformers:"):
                from models.knowledge.hidden_states import HiddenStates

                states = HiddenOptions(layer, pooling, dtype, revision, max_prompt_tokens, max_new_tokens)
                kept = opened.enter_context(AnswerCache(cache or default_cache()))
                chosen = HiddenStates(encoder.removeprefix("transformers:"), kept, states)
            else:
                raise KnowledgeError(
                    f"encoder {encoder!r} is unknown, expected minilm, openai:MODEL, answers:FOLDER, "
                    "transformers:MODEL or hash"
                )
            if build_knowledge(
                read, split_of, out, chosen, n_similar=similar, n_components=components, console=console, detail=detail
            ):
                console.print(f"knowledge of '{read.name}' written to {out}")
            if detail is not None:
                console.print(detail())


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="Knowledge folder.")],
) -> None:
    """Print where the knowledge comes from: encoder or model, prompts, split, dataset, date, token counts, as JSON.

    Example: `python -m models knowledge show $AFTERGLOW_KNOWLEDGE/amazon_beauty/minilm`
    """
    with exit_codes(KEPT):
        typer.echo(json.dumps(_provenance(folder), indent=2, ensure_ascii=False))


def _provenance(folder: Path) -> dict[str, Any]:
    """knowledge.json, of vectors or of answers."""
    try:
        return answers_provenance(folder)
    except KnowledgeError:
        return read_provenance(folder)


def _minilm(console: Console, threads: int | None) -> MiniLM:
    opening = "opening the sentence encoder (its first use exports it, about 10 s)"
    if not console.is_terminal:  # where a spinner shows nothing
        console.print(opening)
    with console.status(opening):
        return MiniLM(threads=threads)
