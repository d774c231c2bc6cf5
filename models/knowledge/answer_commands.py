"""The commands that write requests, ask an endpoint and read answers back."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from models.data.dataset import read_dataset
from models.data.splits import SPLITS
from models.errors import KnowledgeError
from models.knowledge import endpoint_options as options
from models.knowledge.answer_cache import AnswerCache, default_cache
from models.knowledge.answers_folder import REQUEUE
from models.knowledge.ask import EndpointAnswers
from models.knowledge.batch import BatchFiles, read_requests, write_answers
from models.knowledge.endpoint import estimated_tokens
from models.knowledge.ingest import Collected
from models.knowledge.ingest import ingest as write_folder
from models.knowledge.prompts import Options
from models.knowledge.report import KEPT
from models.knowledge.requests import describe_requests, make_requests, origin_path, read_origin, write_with_origin
from models.terminal import exit_codes, stderr_console

SHOWN: Final = 5  # bad answers told one by one


class PaperName(StrEnum):
    """Papers that ask a language model."""

    llm_esr = "llm-esr"
    eimf = "eimf"
    llm4sbr = "llm4sbr"
    llm4msr = "llm4msr"


def requests(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    paper: Annotated[PaperName, typer.Option(help="Whose questions.")],
    out: Annotated[Path, typer.Option(help="JSON Lines file to write; a record of its origin goes beside it.")],
    model: Annotated[str, typer.Option(help="Model the requests name; `ask --model` may name another.")] = "default",
    split: Annotated[str, typer.Option(help=f"Prompts quote its training part only: {', '.join(SPLITS)}.")] = (
        "leave_one_out"
    ),
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most this many users (llm4sbr: prefixes), drawn by the seed.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 7,
    users: Annotated[
        Path | None, typer.Option(help="File with one user_id a line: ask about these only (typical users, say).")
    ] = None,
    goods: Annotated[str, typer.Option(help="What the shop sells, for eimf and llm4sbr.")] = ("products"),
    describe: Annotated[
        list[str] | None, typer.Option(help="SCENARIO=TEXT for llm4msr; repeat it.", show_default="categories")
    ] = None,
) -> None:
    """Write a paper's prompts as OpenAI Batch JSON Lines; the same question always has the same `custom_id`.

    Examples:

    - `python -m models knowledge requests $AFTERGLOW_DATA/amazon_beauty --paper eimf --limit 600 --out eimf.jsonl`
    - `python -m models knowledge requests data/shop --paper llm4msr --describe "home=lamps and rugs" --out msr.jsonl`
    """
    console = stderr_console()
    with exit_codes(KEPT, console):
        if split not in SPLITS:
            raise KnowledgeError(f"split {split!r} is unknown, expected one of {', '.join(SPLITS)}")
        if describe and paper is not PaperName.llm4msr:
            raise KnowledgeError(f"--describe is for llm4msr alone, {paper.value} has no prompt about scenarios")
        if goods != "products" and paper not in (PaperName.eimf, PaperName.llm4sbr):
            raise KnowledgeError(f"--goods is for eimf and llm4sbr, the prompts of {paper.value} do not name them")
        read = read_dataset(dataset)
        chosen = Options(_user_ids(users), limit, seed, goods, _descriptions(describe or []))
        split_of = SPLITS[split](read)
        written = make_requests(read, split_of, paper.value, model, chosen)
        write_with_origin(out, written, describe_requests(read, split_of, paper.value, chosen, written))
        kinds = Counter(request.custom_id.split(":", 3)[2] for request in written)
        told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        tokens = sum(map(estimated_tokens, written))
        console.print(f"{out}: {len(written):,} requests ({told}), about {tokens:,} tokens with answers")
        console.print(f"{origin_path(out)}: where they come from")


def ask(
    requests: Annotated[Path, typer.Argument(help="File of requests.")],
    out: Annotated[
        Path | None, typer.Option(help="File of answers to write.", show_default="REQUESTS.answers.jsonl")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Instead of the model the requests name.")] = None,
    base_url: options.BaseUrl = None,
    key_env: options.KeyEnv = None,
    cache: options.Cache = None,
    concurrency: options.Concurrency = 8,
    timeout: options.Timeout = 120.0,
    max_calls: options.MaxCalls = None,
    max_tokens: options.MaxTokens = None,
    price: options.Price = None,
) -> None:
    """Send requests to an endpoint and write the answers; what was answered before is taken from the cache.

    Ends with code 1 if some have no good answer, after writing those that have.

    Examples:

    - `python -m models knowledge ask eimf.jsonl --base-url http://127.0.0.1:8000/v1 --model qwen2.5-7b-instruct`
    - `python -m models knowledge ask sbr.jsonl --base-url https://api.openai.com/v1 --key-env OPENAI_API_KEY`
    """
    console = stderr_console()
    with exit_codes(KEPT, console):
        asked = read_requests(requests)
        if not (model or all(request.model for request in asked)):
            raise KnowledgeError(f"{requests}: a request names no model, expected --model")
        endpoint = options.endpoint(base_url, key_env, concurrency, timeout, max_calls, max_tokens, price)
        out = out or requests.with_name(requests.name.removesuffix(".jsonl") + ".answers.jsonl")
        with AnswerCache(cache or default_cache()) as kept:
            provider = EndpointAnswers(endpoint, kept, console, model)
            answers = list(provider.answers(asked))
        write_answers(out, answers)
        n_good = sum(answer.body is not None for answer in answers)
        console.print(
            f"{out}: {n_good:,} of {len(asked):,} answered, {provider.n_cached:,} of them from the cache; "
            f"{endpoint.budget.summary()}"
        )
        for answer in [answer for answer in answers if answer.fault][:SHOWN]:
            console.print(f"  {answer.custom_id}: {answer.fault}")
        if provider.stopped:
            console.print(f"stopped: {provider.stopped}; the same command goes on from here")
        if n_good < len(asked):
            raise typer.Exit(1)


def ingest(
    answers: Annotated[list[Path], typer.Argument(help="Files of answers, whoever wrote them.")],
    requests: Annotated[Path, typer.Option(help="The requests they answer.")],
    out: Annotated[Path, typer.Option(help="Folder to write, or to add to.")],
) -> None:
    """Read answers back and check each one; good ones go to a folder, the other requests to its `requeue.jsonl`.

    Ends with code 1 if some requests are still without a good answer, after writing the rest.

    Example: `python -m models knowledge ingest eimf.answers.jsonl --requests eimf.jsonl --out knowledge/beauty-eimf`
    """
    console = stderr_console()
    with exit_codes(KEPT, console):
        asked = read_requests(requests)
        collected = write_folder(asked, BatchFiles(*answers).answers(asked), read_origin(requests), out)
        _tell(console, collected, len(asked), out)
        if collected.bad or collected.missing:
            raise typer.Exit(1)


def _tell(console: Console, collected: Collected, n_asked: int, out: Path) -> None:
    n_open = len(collected.bad) + len(collected.missing)
    console.print(
        f"{out}: {n_asked - n_open:,} of {n_asked:,} requests have a good answer; "
        f"new {len(collected.good):,}, bad {len(collected.bad):,}, missing {len(collected.missing):,}, "
        f"foreign or unreadable {collected.foreign:,}, repeated {collected.repeated:,}"
    )
    for custom_id, why in list(collected.bad.items())[:SHOWN]:
        console.print(f"  {custom_id}: the answer {why}")
    if n_open:
        console.print(f"{out / REQUEUE}: {n_open:,} requests to send again")


def _user_ids(path: Path | None) -> frozenset[str] | None:
    if path is None:
        return None
    try:
        ids = frozenset(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise KnowledgeError(f"{path}: cannot be read ({error}), expected one user_id a line") from error
    if not ids:
        raise KnowledgeError(f"{path}: names no user")
    return ids


def _descriptions(pairs: list[str]) -> dict[str, str]:
    described = {}
    for pair in pairs:
        scenario, equals, text = pair.partition("=")
        if not (scenario.strip() and equals and text.strip()):
            raise KnowledgeError(f"--describe {pair!r}: expected SCENARIO=TEXT")
        described[scenario.strip()] = text.strip()
    return described
