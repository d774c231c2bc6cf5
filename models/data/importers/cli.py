"""`python -m models data import …`: one command per kind of raw file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from models.data.folder import REJECTED, check_writable, write_dataset
from models.data.importers.ali_ccp import read_ali_ccp
from models.data.importers.amazon import read_amazon
from models.data.importers.kuairand import read_kuairand
from models.data.importers.kuaisar import read_kuaisar
from models.data.importers.movielens import read_movielens
from models.data.importers.plain_csv import InteractionColumns, ItemColumns, read_csv
from models.data.importers.rows import Imported, TimeUnit
from models.terminal import exit_codes

SOME_ROWS_REJECTED = 3
N_SHOWN = 5

app = typer.Typer(
    help="Turn public raw files into a dataset folder.\n\n"
    "A row that cannot be read is left out, written with file, line and reason to `rejected.jsonl` in the new folder, "
    "and counted on the terminal.\n\n"
    "Exit codes: **0** every row was read, **3** the dataset was written but rows were rejected, "
    "**1** nothing was written, **130** interrupted.",
    rich_markup_mode="markdown",
    no_args_is_help=True,
)

Out = Annotated[Path, typer.Option(help="Dataset folder to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the dataset that OUT holds.")]


@app.command()
def movielens(
    folder: Annotated[Path, typer.Argument(help="Unpacked folder with ratings.dat or ratings.csv.")],
    out: Out,
    force: Force = False,
) -> None:
    """MovieLens: `.dat` (1M, 10M) or CSV (20M, 25M, 32M, latest).

    Example: `python -m models data import movielens ml-1m/ --out data/ml-1m`
    """
    with exit_codes("nothing was written"):
        check_writable(out, force=force)
        _write(out, read_movielens(folder))


@app.command()
def amazon(
    reviews: Annotated[Path, typer.Argument(help="Reviews, one JSON object a line, plain or .gz.")],
    out: Out,
    metadata: Annotated[Path | None, typer.Option(help="Product metadata, one object a line, plain or .gz.")] = None,
    force: Force = False,
) -> None:
    """Amazon reviews of 2014, 2018 or 2023; the shape of each line is recognised.

    The catalogue is every item of the metadata, reviewed or not; `python -m models data filter` narrows it.

    Examples:

    - `python -m models data import amazon reviews_Beauty.json.gz --metadata meta_Beauty.json.gz --out data/beauty`
    - `python -m models data import amazon All_Beauty.jsonl --metadata meta_All_Beauty.jsonl --out data/beauty23`
    """
    with exit_codes("nothing was written"):
        check_writable(out, force=force)
        _write(out, read_amazon(reviews, metadata))


@app.command()
def kuaisar(
    folder: Annotated[
        Path, typer.Argument(help="Unpacked folder with rec_inter.csv, src_inter.csv and item_features.csv.")
    ],
    out: Out,
    force: Force = False,
) -> None:
    """KuaiSAR: videos recommended and searched for, two scenarios. Also writes what was shown and not clicked.

    Example: `python -m models data import kuaisar KuaiSAR_final/ --out data/kuaisar`
    """
    with exit_codes("nothing was written"):
        check_writable(out, force=force)
        _write(out, read_kuaisar(folder))


@app.command()
def kuairand(
    folder: Annotated[
        Path, typer.Argument(help="Unpacked folder with log_standard_*.csv and video_features_basic_*.csv.")
    ],
    out: Out,
    force: Force = False,
) -> None:
    """KuaiRand: videos shown in up to 15 tabs, each a scenario. Also writes what was shown and not clicked.

    Example: `python -m models data import kuairand KuaiRand-Pure/ --out data/kuairand`
    """
    with exit_codes("nothing was written"):
        check_writable(out, force=force)
        _write(out, read_kuairand(folder))


@app.command()
def ali_ccp(
    folder: Annotated[
        Path, typer.Argument(help="Unpacked folder with sample_skeleton_*.csv and common_features_*.csv.")
    ],
    out: Out,
    force: Force = False,
) -> None:
    """Ali-CCP: products shown in three positions, each a scenario. Also writes what was shown and not clicked.

    The set has no times: no split by time cuts it, and the order of a user's clicks is that of the files.

    Example: `python -m models data import ali-ccp ali-ccp/ --out data/ali-ccp`
    """
    with exit_codes("nothing was written"):
        check_writable(out, force=force)
        _write(out, read_ali_ccp(folder))


@app.command("csv")
def csv_(
    interactions: Annotated[Path, typer.Argument(help="CSV with a header line, plain or .gz, UTF-8.")],
    out: Out,
    user: Annotated[
        str, typer.Option(help="Column of the user ids; for anonymous sets the session column.")
    ] = "user_id",
    item: Annotated[str, typer.Option(help="Column of the item ids.")] = "item_id",
    timestamp: Annotated[str | None, typer.Option(help="Column of the times. None: the rows are in order.")] = None,
    time_unit: Annotated[TimeUnit, typer.Option(help="How times are written; `iso` without zone is UTC.")] = TimeUnit.s,
    position: Annotated[str | None, typer.Option(help="Column of the rank of an event within its user.")] = None,
    rating: Annotated[str | None, typer.Option(help="Column of the ratings.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of 0/1 labels.")] = None,
    scenario: Annotated[str | None, typer.Option(help="Column of the scenario.")] = None,
    session: Annotated[str | None, typer.Option(help="Column of the session ids.")] = None,
    items: Annotated[Path | None, typer.Option(help="CSV of the items; all its columns are kept as texts.")] = None,
    items_id: Annotated[str, typer.Option(help="Column of the item ids in ITEMS.")] = "item_id",
    title: Annotated[str, typer.Option(help="Column of the titles in ITEMS.")] = "title",
    category: Annotated[str | None, typer.Option(help="Column of the categories in ITEMS.")] = None,
    delimiter: Annotated[str, typer.Option(help="One character; `\\t` is a tab.")] = ",",
    force: Force = False,
) -> None:
    """Any CSV whose columns you name.

    Examples:

    - `python -m models data import csv clicks.csv --user visitor --item sku --timestamp ts --time-unit ms --out own`
    - `python -m models data import csv log.tsv --delimiter '\\t' --timestamp when --time-unit iso
      --items products.tsv --items-id sku --title name --out own`
    """
    with exit_codes("nothing was written"):
        separator = "\t" if delimiter == "\\t" else delimiter
        if len(separator) != 1:
            raise typer.BadParameter(f"{delimiter!r} is not one character", param_hint="--delimiter")
        check_writable(out, force=force)
        columns = InteractionColumns(
            user=user,
            item=item,
            timestamp=timestamp,
            time_unit=time_unit,
            position=position,
            rating=rating,
            label=label,
            scenario=scenario,
            session=session,
        )
        _write(out, read_csv(interactions, columns, items, ItemColumns(items_id, title, category), separator))


def _write(out: Path, imported: Imported) -> None:
    """Writes the folder, says what was read and what was not, and exits with 3 if a row was rejected."""
    write_dataset(
        out,
        imported.interactions,
        imported.items,
        imported.users,
        impressions=imported.impressions,
        rejected=imported.rejected,
    )
    items = "no item file" if imported.items is None else f"{imported.items.num_rows:,} items"
    typer.echo(f"{imported.interactions.num_rows:,} interactions and {items} in {out}")
    if imported.impressions is not None:
        typer.echo(f"{imported.impressions.num_rows:,} impressions")
    for note in imported.notes:
        typer.echo(note)
    if not imported.rejected:
        return
    console = Console(stderr=True)
    for file, n_rejected in Counter(row["file"] for row in imported.rejected).items():
        console.print(f"{file}: {n_rejected:,} rows rejected", style="yellow", markup=False, highlight=False)
    for row in imported.rejected[:N_SHOWN]:
        console.print(f"  {row['file']}:{row['line']}: {row['reason']}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"all {len(imported.rejected):,} are in {out / REJECTED}", markup=False, highlight=False, soft_wrap=True
    )
    raise typer.Exit(SOME_ROWS_REJECTED)
