"""The commands of EIMF's explicit module: whom to ask about, and what their answers mean for everybody."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from models.data.dataset import read_dataset
from models.data.splits import SPLITS
from models.errors import KnowledgeError
from models.knowledge.answers_folder import load_answers
from models.knowledge.encoders import HashEncoder, TextEncoder, encode_unique
from models.knowledge.interests import build_interests, user_features
from models.knowledge.minilm import MiniLM
from models.knowledge.prompts import Options
from models.knowledge.report import KEPT, reporting
from models.knowledge.requests import describe_requests, make_requests, write_with_origin
from models.knowledge.typical import typical_users
from models.terminal import exit_codes, stderr_console

Encoder = Annotated[str, typer.Option(help="`minilm`: all-MiniLM-L6-v2, 384 dimensions. `hash`: for tests only.")]
SplitName = Annotated[str, typer.Option(help=f"Only its training part is looked at: {', '.join(SPLITS)}.")]


def exemplars(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: Annotated[Path, typer.Option(help="JSON Lines file of requests to write; its origin goes beside it.")],
    share: Annotated[float, typer.Option(min=0, max=1, help="Typical users among those with titled items.")] = 0.05,
    split: SplitName = "leave_one_out",
    goods: Annotated[str, typer.Option(help="What the shop sells.")] = "products",
    model: Annotated[str, typer.Option(help="Model the requests name; `ask --model` may name another.")] = "default",
    seed: Annotated[int, typer.Option(help="Of the clustering.")] = 7,
    encoder: Encoder = "minilm",
) -> None:
    """Find typical users by their titles and write EIMF's requests about them: `ask` or a batch service answers these.

    Affinity Propagation up to 3,000 users; above, k-means within cells of 2,000 users, whatever their number.

    Example: `python -m models knowledge exemplars $AFTERGLOW_DATA/amazon_beauty --share 0.05 --out eimf.jsonl`
    """
    console = stderr_console()
    with exit_codes("nothing was written", console):
        read = read_dataset(dataset)
        split_of = SPLITS[known_split(split)](read)
        chosen = text_encoder(encoder)
        with reporting(console, "titles", "tokens") as report:
            titles = encode_unique(chosen, read.item_titles(), report).vectors
        features = user_features(titles, split_of.train)
        started = time.monotonic()
        with reporting(console, "typical users", "users") as report:
            rows = typical_users(features, share, seed=seed, on_progress=report)
        seconds = time.monotonic() - started
        options = Options(users=frozenset(read.user_ids[row] for row in rows), seed=seed, goods=goods)
        written = make_requests(read, split_of, "eimf", model, options)
        origin = describe_requests(read, split_of, "eimf", options, written)
        origin["typical_users"] = {
            "encoder": chosen.digest,
            "share": share,
            "n": len(rows),
            "seconds": round(seconds, 1),
        }
        write_with_origin(out, written, origin)
        n_known = int((features != 0).any(1).sum())
        console.print(
            f"{out}: {len(written):,} requests about typical users, {len(written) / n_known:.1%} of {n_known:,}; "
            f"clustered in {seconds:.1f} s"
        )


def interests(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    answers: Annotated[Path, typer.Option(help="Folder of EIMF answers that `ingest` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    split: SplitName = "leave_one_out",
    answers_split: Annotated[
        str | None, typer.Option(help="Split whose training part the prompts quote, if the answers do not say.")
    ] = None,
    encoder: Encoder = "minilm",
) -> None:
    """Turn answers about typical users into knowledge for EIMF: every user inherits the interests of the nearest one.

    Answers about users that the split holds out are left out.

    Example: `python -m models knowledge interests data/shop --answers answers --split user_disjoint --out shop-eimf`
    """
    console = stderr_console()
    with exit_codes(KEPT, console):
        read = read_dataset(dataset)
        split_of = SPLITS[known_split(split)](read)
        told = build_interests(
            read, split_of, load_answers(answers), out, text_encoder(encoder), console, answers_split=answers_split
        )
        console.print(f"{out}: {json.dumps(told['answers'])}")


def known_split(split: str) -> str:
    """The name itself, KnowledgeError if there is no such split."""
    if split not in SPLITS:
        raise KnowledgeError(f"split {split!r} is unknown, expected one of {', '.join(SPLITS)}")
    return split


def text_encoder(name: str) -> TextEncoder:
    """The encoder that `--encoder` names."""
    if name == "hash":
        return HashEncoder()
    if name == "minilm":
        return MiniLM()
    raise KnowledgeError(f"encoder {name!r} is unknown, expected minilm or hash")
