"""`python -m models knowledge …`: build the knowledge of a dataset, show where a knowledge folder comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from models.data.dataset import read_dataset
from models.data.splits import SPLITS
from models.errors import KnowledgeError, ModelsError
from models.knowledge.encoders import HashEncoder, TextEncoder
from models.knowledge.folder import read_provenance
from models.knowledge.minilm import MiniLM
from models.knowledge.report import stderr_console
from models.knowledge.store import N_COMPONENTS, N_SIMILAR, build_knowledge

app = typer.Typer(
    help="What a language model says of items and users, as vectors.",
    rich_markup_mode="markdown",
    no_args_is_help=True,
)


class EncoderName(StrEnum):
    """Encoders the command line knows."""

    minilm = "minilm"
    hash = "hash"


@app.command()
def build(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write; kept if it already holds the same knowledge.")],
    encoder: Annotated[
        EncoderName, typer.Option(help="`minilm`: all-MiniLM-L6-v2, 384 dimensions. `hash`: for tests only.")
    ] = EncoderName.minilm,
    split: Annotated[
        str, typer.Option(help=f"User prompts quote its training part only: {', '.join(SPLITS)}.")
    ] = "leave_one_out",
    similar: Annotated[int, typer.Option(min=1, help="Similar users kept for each user.")] = N_SIMILAR,
    components: Annotated[int, typer.Option(min=1, help="Principal components kept of the items.")] = N_COMPONENTS,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Batches encoded at once.", show_default="cores available")
    ] = None,
) -> None:
    """Encode item and user prompts, their principal components and each user's similar users.

    Interrupted builds go on where they were. The first use of `minilm` exports the model into your cache directory.

    Examples:

    - `python -m models knowledge build $AFTERGLOW_DATA/amazon_beauty --out $AFTERGLOW_KNOWLEDGE/amazon_beauty/minilm`
    - `python -m models knowledge build data/shop --out knowledge/shop --split global_time --similar 20`
    """
    console = stderr_console()
    with _exit_codes(console):
        if split not in SPLITS:
            raise KnowledgeError(f"split {split!r} is unknown, expected one of {', '.join(SPLITS)}")
        read = read_dataset(dataset)
        chosen: TextEncoder = HashEncoder() if encoder is EncoderName.hash else _minilm(console, threads)
        if build_knowledge(
            read, SPLITS[split](read), out, chosen, n_similar=similar, n_components=components, console=console
        ):
            console.print(f"knowledge of '{read.name}' written to {out}")


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="Knowledge folder.")],
) -> None:
    """Print where the knowledge comes from: encoder, prompts, split, dataset, date, token counts, as JSON.

    Example: `python -m models knowledge show $AFTERGLOW_KNOWLEDGE/amazon_beauty/minilm`
    """
    with _exit_codes(stderr_console()):
        typer.echo(json.dumps(read_provenance(folder), indent=2, ensure_ascii=False))


def _minilm(console: Console, threads: int | None) -> MiniLM:
    opening = "opening the sentence encoder (its first use exports it, about 10 s)"
    if not console.is_terminal:  # where a spinner shows nothing
        console.print(opening)
    with console.status(opening):
        return MiniLM(threads=threads)


@contextmanager
def _exit_codes(console: Console) -> Iterator[None]:
    """Errors become one line and code 1, Ctrl-C one line and code 130."""
    try:
        yield
    except ModelsError as error:
        console.print(f"error: {error}", style="red")
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        console.print("interrupted: finished files are kept, the same command goes on after them")
        raise typer.Exit(130) from error
