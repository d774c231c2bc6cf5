"""The commands of LLM4SBR's first stage: which prefixes to ask about, and what the answers mean among the items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from models.data.dataset import Sequences, read_dataset
from models.data.splits import SPLITS
from models.knowledge.answers_folder import load_answers
from models.knowledge.encoders import encode_unique
from models.knowledge.intents import N_NEIGHBOURS, build_intents
from models.knowledge.interest_commands import Encoder, SplitName, known_split, text_encoder
from models.knowledge.interests import user_features
from models.knowledge.prefix_sample import sample_prefixes
from models.knowledge.prompts import Options
from models.knowledge.prompts.llm4sbr import MAX_TITLE_CHARS, prefix_name, training_sessions
from models.knowledge.report import KEPT, reporting
from models.knowledge.requests import describe_requests, make_requests, write_with_origin
from models.terminal import exit_codes, stderr_console


def prefixes(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    calls: Annotated[int, typer.Option(min=2, help="Budget: a prefix takes two calls, one for each view.")],
    out: Annotated[Path, typer.Option(help="JSON Lines file of requests to write; its origin goes beside it.")],
    typical: Annotated[
        float, typer.Option(min=0, max=1, help="Of the prefixes, from sessions that stand for many others.")
    ] = 0.25,
    split: SplitName = "leave_one_out",
    goods: Annotated[str, typer.Option(help="What the shop sells.")] = "products",
    model: Annotated[str, typer.Option(help="Model the requests name; `ask --model` may name another.")] = "default",
    seed: Annotated[int, typer.Option(help="Of the draw and the clustering.")] = 7,
    encoder: Encoder = "minilm",
) -> None:
    """Draw session prefixes for a budget of calls and write LLM4SBR's requests about them.

    Prefixes follow the lengths of all there are, one a session where possible; `--typical` of them come from sessions
    nearest to the centres of clusters of title vectors.

    Example: `python -m models knowledge prefixes $AFTERGLOW_DATA/ml-100k --calls 2000 --goods films --out sbr.jsonl`
    """
    console = stderr_console()
    with exit_codes("nothing was written", console):
        read = read_dataset(dataset)
        split_of = SPLITS[known_split(split)](read)
        sessions = list(training_sessions(read, split_of, Options()))
        histories = Sequences.from_lists(items for _, items in sessions)
        chosen = text_encoder(encoder)
        with reporting(console, "titles", "tokens") as report:
            titles = encode_unique(chosen, read.item_titles(), report).vectors
        with reporting(console, "typical sessions", "sessions") as report:
            drawn = sample_prefixes(
                histories.lengths,
                user_features(titles, histories),
                calls,
                typical_share=typical,
                seed=seed,
                on_progress=report,
            )
        wanted = frozenset(prefix_name(sessions[row][0], cut) for row, cut in drawn)
        options = Options(seed=seed, goods=goods, prefixes=wanted)
        written = make_requests(read, split_of, "llm4sbr", model, options)
        origin = describe_requests(read, split_of, "llm4sbr", options, written)
        origin["sample"] = {"encoder": chosen.digest, "calls": calls, "typical": typical, "n_prefixes": len(drawn)}
        write_with_origin(out, written, origin)
        total = int((histories.lengths - 1).clip(0).sum())
        console.print(f"{out}: {len(written):,} requests about {len(drawn):,} of {total:,} prefixes")


def intents(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    answers: Annotated[Path, typer.Option(help="Folder of LLM4SBR answers that `ingest` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    neighbours: Annotated[
        int, typer.Option(min=0, help="Items that an intent is made of, r of the paper; 0: the answer's own vector.")
    ] = N_NEIGHBOURS,
    weights: Annotated[
        Literal["cosine", "normalised"], typer.Option(help="Of the neighbours; `cosine` is the paper's sum.")
    ] = "cosine",
    goods: Annotated[
        str, typer.Option(help="What the prompts call the goods, if the answers do not say.")
    ] = "products",
    title_chars: Annotated[
        list[int] | None, typer.Option(help="A length that the prompts cut titles to; repeat it.", show_default="90")
    ] = None,
    encoder: Encoder = "minilm",
) -> None:
    """Turn answers about session prefixes into knowledge for LLM4SBR: vectors among the catalogue's texts.

    Each prompt is written anew and held to the one that was answered: nobody has seen a click after the prefix.

    Example: `python -m models knowledge intents data/shop --answers answers --goods "beauty products" --out shop-sbr`
    """
    console = stderr_console()
    with exit_codes(KEPT, console):
        read = read_dataset(dataset)
        told = build_intents(
            read,
            load_answers(answers),
            out,
            text_encoder(encoder),
            console,
            goods=goods,
            title_chars=title_chars or [MAX_TITLE_CHARS],
            r=neighbours,
            weights=weights,
        )
        console.print(f"{out}: {json.dumps(told['answers'])}")
