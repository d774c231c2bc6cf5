"""`python -m models`: datasets, knowledge, training, evaluation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from models.data.cli import app as data_app
from models.errors import ModelsError
from models.knowledge.cli import app as knowledge_app

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False)
app.add_typer(data_app, name="data", help="Import, filter, describe and generate datasets.")
app.add_typer(knowledge_app, name="knowledge", help="Turn item and user texts into LLM knowledge.")


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="the run's TOML; models/configs holds examples")],
    out: Annotated[Path | None, typer.Option(help="run folder; default $AFTERGLOW_RUNS/NAME, else runs/NAME")] = None,
    seed: Annotated[int | None, typer.Option(help="instead of the seed in the TOML")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default all cores")] = None,
) -> None:
    """Train one run; started again after a kill it goes on from its last finished epoch.

    Example: `python -m models train models/configs/beauty-llm-esr.toml`
    """
    import torch

    from models.config import read_config
    from models.train import train as fit

    if threads:
        torch.set_num_threads(threads)
    run = read_config(config)
    if seed is not None:
        run = run.model_copy(update={"seed": seed})
    fit(run, out or Path(os.environ.get("AFTERGLOW_RUNS", "runs")) / run.name, Console(stderr=True))


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="folder of a finished run")],
    negatives: Annotated[
        int, typer.Option(min=0, help="also rank among this many fixed, saved random items (papers use 100)")
    ] = 0,
) -> None:
    """Rank every test target among the whole catalogue; writes evaluation.json, evaluation.html, predictions.parquet.

    Example: `python -m models evaluate $AFTERGLOW_RUNS/beauty-llm-esr --negatives 100`
    """
    from models.evaluate import evaluate as report_on

    report = report_on(run, Console(stderr=True), n_negatives=negatives)
    for group, row in report["test"].items():
        typer.echo(f"{group:15} n={row['n']:7,}  hr@10={row['hr@10']:.4f}  ndcg@10={row['ndcg@10']:.4f}")
    typer.echo(f"report: {run / 'evaluation.html'}")


@app.command()
def compare(
    run: Annotated[list[Path], typer.Argument(help="folders of evaluated runs; the first is the control")],
    out: Annotated[Path | None, typer.Option(help="also write the table as JSON")] = None,
) -> None:
    """Put evaluated runs of one data set side by side, as Markdown; gains with intervals over the first.

    Example: `python -m models compare $AFTERGLOW_RUNS/beauty-sasrec $AFTERGLOW_RUNS/beauty-llm-esr`
    """
    import json

    from models.compare import as_markdown
    from models.compare import compare as side_by_side
    from models.runs import write_atomic

    table = side_by_side(run)
    if out:
        write_atomic(out, json.dumps(table, indent=2).encode() + b"\n")
    typer.echo(as_markdown(table))


def main() -> None:
    """Run the command line; a known error is one message and exit code 1, Ctrl-C is 130."""
    try:
        app()
    except ModelsError as error:
        Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
