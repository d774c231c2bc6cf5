"""`python -m models knowledge meta`: what an LLM told of scenarios and users becomes vectors for LLM4MSR."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from models.data.dataset import Dataset, read_dataset
from models.data.splits import SPLITS, Split
from models.errors import KnowledgeError
from models.knowledge.answers_folder import load_answers
from models.knowledge.encoders import HashEncoder, TextEncoder
from models.knowledge.meta import Told, build_meta, told_by, told_ids, usable_users
from models.knowledge.minilm import MiniLM
from models.knowledge.prompts import PAPERS, Options
from models.knowledge.report import KEPT
from models.terminal import exit_codes, stderr_console


def meta(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder with scenarios.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    answers: Annotated[
        Path | None,
        typer.Option(
            help="Folder of LLM4MSR answers: in words (`knowledge ingest`) or hidden states (`knowledge hidden`). "
            "Without it the prompts themselves are encoded, and no language model is asked."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help=f"What the ranker holds out: {', '.join(SPLITS)}.")] = "global_time",
    answers_dataset: Annotated[
        Path | None, typer.Option(help="Dataset that the answered prompts quote.", show_default="DATASET")
    ] = None,
    answers_split: Annotated[
        str | None, typer.Option(help="Split whose training part they quote, if the answers do not say.")
    ] = None,
    future_visible: Annotated[
        bool,
        typer.Option(
            "--future-visible",
            help="Keep answers that quote an event not known to precede all that is held out of its user; recorded.",
        ),
    ] = False,
    encoder: Annotated[
        str, typer.Option(help="Of texts: `minilm`, all-MiniLM-L6-v2, 384 dimensions; `hash`, for tests only.")
    ] = "minilm",
) -> None:
    """Turn what a language model told of scenarios and users into the vectors that LLM4MSR's meta networks read.

    An answer about a user is used only if every event its prompt quotes is earlier than all that the split holds out
    of this user. Answers about scenarios are used as they are.

    Examples:

    - `python -m models knowledge meta data/shop --out knowledge/shop-msr`
    - `python -m models knowledge meta data/shop --answers answers --split global_time --out knowledge/shop-msr`
    """
    console = stderr_console()
    with exit_codes(KEPT, console):
        if encoder not in ("minilm", "hash"):
            raise KnowledgeError(f"encoder {encoder!r} is unknown, expected minilm or hash")
        for name in (split, answers_split or split):
            if name not in SPLITS:
                raise KnowledgeError(f"split {name!r} is unknown, expected one of {', '.join(SPLITS)}")
        read = read_dataset(dataset)
        split_of = SPLITS[split](read)
        if answers is None:
            told, usable = told_by_prompts(read, split_of), usable_users(read, split_of, read, split_of)
        else:
            quoted = read_dataset(answers_dataset) if answers_dataset else read
            told = told_by_answers(answers, quoted.name)
            quoted_name = told.provenance["split"] or answers_split
            if quoted_name is None:
                raise KnowledgeError(f"{answers}: does not say which split its prompts quote, say it: --answers-split")
            usable = usable_users(quoted, SPLITS[quoted_name](quoted), read, split_of)
        chosen: TextEncoder | None = None
        if told.provider is None:
            chosen = HashEncoder() if encoder == "hash" else MiniLM()
        made = build_meta(read, split_of, told, usable, out, chosen, console, future_visible=future_visible)
        console.print(f"{out}: {json.dumps(made['answers'])}", highlight=False)


def told_by_answers(folder: Path, dataset: str) -> Told:
    """The answers of a folder about scenarios and users; `KnowledgeError` if they are of another paper or dataset."""
    found = load_answers(folder)
    about: dict[str, Any] = dict(found.provenance)
    if about["paper"] != "llm4msr" or about["dataset"]["name"] != dataset:
        raise KnowledgeError(
            f"{folder}: answers are of {about['paper']} of '{about['dataset']['name']}', "
            f"expected llm4msr of '{dataset}'"
        )
    scenarios, users = (told_by(found.answers, what) for what in ("scenario", "user"))
    provider = about.get("hidden_states") if told_ids([*scenarios.values(), *users.values()]) else None
    if provider is not None:
        provider = {"name": provider["model"], **provider}
    kept = {name: about.get(name) for name in ("models", "split", "prompts_digest", "prompts")}
    return Told(scenarios, users, {"source": "answers", **kept}, provider)


def told_by_prompts(dataset: Dataset, split: Split) -> Told:
    """The prompts in place of answers, as the paper's hidden state of a prompt's end comes before any answer."""
    paper = PAPERS["llm4msr"]
    questions = paper.questions(dataset, split, Options())
    scenarios, users = (
        {question.about: question.text for question in questions if question.kind == what}
        for what in ("scenario", "user")
    )
    prompts = {name: template.describe() for name, template in paper.templates.items()}
    return Told(scenarios, users, {"source": "prompts", "split": split.name, "models": {}, "prompts": prompts})
