"""`python -m models data …`: import raw files, describe, filter, and generate the sample shop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from models.data.dataset import read_dataset
from models.data.filters import filter_tables, on_one_clock
from models.data.folder import check_writable, read_tables, write_dataset
from models.data.importers.cli import app as import_app
from models.data.sample_shop import generate
from models.data.sessions import cut_sessions
from models.data.statistics import describe
from models.terminal import exit_codes

app = typer.Typer(
    help="Import, describe, filter and generate datasets.",
    rich_markup_mode="markdown",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(import_app, name="import")

Force = Annotated[bool, typer.Option("--force", help="Replace the dataset that OUT holds.")]


@app.command()
def stats(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Sizes, density, lengths, the long tail, texts, and what may surprise.

    The tail is counted in the training part of leave-one-out.

    Examples:

    - `python -m models data stats $AFTERGLOW_DATA/amazon_beauty`
    - `python -m models data stats shop --json | jq .tail`
    """
    with exit_codes("nothing was written"):
        found = describe(read_dataset(dataset))
        if as_json:
            typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        else:
            _print(found)


@app.command("filter")
def filter_(
    source: Annotated[Path, typer.Argument(help="Dataset folder to read.")],
    out: Annotated[Path, typer.Argument(help="Dataset folder to write.")],
    user_core: Annotated[int, typer.Option(min=1, help="Least interactions of a user.")] = 5,
    item_core: Annotated[int, typer.Option(min=1, help="Least interactions of an item.")] = 5,
    single_pass: Annotated[
        bool,
        typer.Option("--single-pass", help="Count once, as SASRec and LLM-ESR do, instead of until nothing changes."),
    ] = False,
    force: Force = False,
) -> None:
    """Keep users and items with enough interactions (k-core).

    Items and users without a remaining interaction are dropped too. A pair that occurs twice counts twice.

    Examples:

    - `python -m models data filter beauty_all beauty_5core`
    - `python -m models data filter beauty_all beauty_llm_esr --single-pass`
    - `python -m models data filter ml-1m ml-1m-3416 --user-core 1 --item-core 5`
    """
    with exit_codes("nothing was written"):
        check_writable(out, force=force)
        tables = read_tables(source)
        kept = filter_tables(tables, user_core, item_core, iterate=not single_pass)
        write_dataset(out, kept.interactions, kept.items, kept.users, impressions=kept.impressions)
        typer.echo(f"kept {kept.interactions.num_rows:,} of {tables.interactions.num_rows:,} interactions in {out}")


@app.command("scenarios")
def scenarios(
    source: Annotated[Path, typer.Argument(help="Dataset folder to read.")],
    out: Annotated[Path, typer.Argument(help="Dataset folder to write.")],
    keep: Annotated[list[str], typer.Option(help="Scenario to keep, once for each.")],
    force: Force = False,
) -> None:
    """Keep some scenarios, in the order of one clock, and the users who are in all of them.

    Scenarios that were ordered each by itself can then be cut at one moment of a user's time.

    Example: `python -m models data scenarios three_shops two_shops --keep beauty --keep sports`
    """
    with exit_codes("nothing was written"):
        check_writable(out, force=force)
        tables = read_tables(source)
        kept = on_one_clock(tables, keep)
        write_dataset(out, kept.interactions, kept.items, kept.users, impressions=kept.impressions)
        typer.echo(f"kept {kept.interactions.num_rows:,} of {tables.interactions.num_rows:,} interactions in {out}")


@app.command()
def sessions(
    source: Annotated[Path, typer.Argument(help="Dataset folder to read; every event has a timestamp.")],
    out: Annotated[Path, typer.Argument(help="Dataset folder to write: a row of it is a session.")],
    minutes: Annotated[int, typer.Option(min=1, help="Length of a wall-clock bin.")] = 10,
    min_clicks: Annotated[int, typer.Option(min=1, help="Least interactions of a session.")] = 2,
    item_core: Annotated[int, typer.Option(min=1, help="Least interactions of an item.")] = 5,
    force: Force = False,
) -> None:
    """Cut users' logs into sessions: what one did within a wall-clock bin.

    Example: `python -m models data sessions $AFTERGLOW_DATA/ml-100k $AFTERGLOW_RUNS/data/ml-100k-sessions`
    """
    with exit_codes("nothing was written"):
        check_writable(out, force=force)
        kept = cut_sessions(read_tables(source), minutes, min_clicks, item_core)
        write_dataset(out, kept.interactions, kept.items)
        n_sessions = len(kept.interactions.column("session_id").unique())
        typer.echo(f"{n_sessions:,} sessions of {kept.interactions.num_rows:,} interactions in {out}")


@app.command("sample-shop")
def sample_shop(
    out: Annotated[Path, typer.Argument(help="Dataset folder to write.")],
    seed: Annotated[int, typer.Option(help="The same seed and sizes give the same shop.")] = 7,
    users: Annotated[int, typer.Option(min=1, help="Number of shoppers.")] = 1500,
    items: Annotated[int, typer.Option(min=10, help="Number of items.")] = 600,
    force: Force = False,
) -> None:
    """Generate a made-up shop: texts that carry the topics, drifting interests, sessions, three scenarios, a long tail.

    Also writes `impressions.parquet`: everything shown, with label 1 where it was clicked.

    Examples:

    - `python -m models data sample-shop shop`
    - `python -m models data sample-shop big-shop --users 20000 --items 5000 --seed 1`
    """
    with exit_codes("nothing was written"):
        check_writable(out, force=force)
        generate(out, seed=seed, n_users=users, n_items=items)
        typer.echo(f"sample shop of {users:,} users and {items:,} items in {out}")


def _print(found: dict[str, Any]) -> None:
    table = Table(title=found["name"], title_justify="left")
    table.add_column("what", no_wrap=True)
    table.add_column("value", overflow="fold")
    for key, value in found.items():
        if key in ("name", "oddities") or value in (None, {}):
            continue
        if not isinstance(value, dict):
            table.add_row(key, _shown(value))
            continue
        table.add_section()
        for inner, inner_value in value.items():
            table.add_row(f"{key}: {inner}", _shown(inner_value))
        table.add_section()
    console = Console()
    console.print(table)
    for oddity in found["oddities"]:
        console.print(f"note: {oddity}", markup=False, highlight=False)


def _shown(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1 else f"{value:,.3f}".rstrip("0").rstrip(".")
    return "unknown" if value is None else str(value)
