"""`python -m models`: datasets, knowledge, training, evaluation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from models.data.cli import app as data_app
from models.errors import ModelsError, RunError
from models.knowledge.cli import app as knowledge_app
from models.terminal import exit_codes, stderr_console

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False)
app.add_typer(data_app, name="data", help="Import, filter, describe and generate datasets.")
app.add_typer(knowledge_app, name="knowledge", help="Turn item and user texts into LLM knowledge.")


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="the run's TOML; models/configs holds examples")],
    out: Annotated[Path | None, typer.Option(help="run folder; default $AFTERGLOW_RUNS/NAME, else runs/NAME")] = None,
    seed: Annotated[int | None, typer.Option(help="instead of the seed in the TOML")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default all cores")] = None,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="evaluate the run when it is trained")] = False,
    negatives: Annotated[int, typer.Option(min=0, help="with --evaluate: as for the command evaluate")] = 0,
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
    folder = out or _runs_folder() / run.name
    with exit_codes("finished epochs are kept, the same command goes on after them"):
        fit(run, folder, Console(stderr=True))
        if evaluate:
            _report(folder, negatives)


@app.command(name="evaluate")
def evaluate_run(
    run: Annotated[Path, typer.Argument(help="folder of a finished run")],
    negatives: Annotated[
        int, typer.Option(min=0, help="also rank among this many fixed, saved random items (papers use 100)")
    ] = 0,
) -> None:
    """Rank every test target among the whole catalogue; writes evaluation.json, evaluation.html, predictions.parquet.

    Example: `python -m models evaluate $AFTERGLOW_RUNS/beauty-llm-esr --negatives 100`
    """
    with exit_codes("the evaluation starts from its beginning next time"):
        _report(run, negatives)


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


@app.command(name="behaviour-only")
def behaviour_only_runs(
    plain: Annotated[list[Path], typer.Option(help="an evaluated run of the plain encoder; repeat it, one a seed")],
    taught: Annotated[list[Path], typer.Option(help="a taught run of the same seed, in the same order")],
    out: Annotated[Path | None, typer.Option(help="also write the figures as JSON")] = None,
) -> None:
    """Say what LLM4SBR keeps of its gain without a language model's answers, on held-back prefixes that have some.

    Keeping 80 % is claimed only where the gain with answers is certain and the ratio's interval starts at 0.8 or above.

    Example: `python -m models behaviour-only --plain $AFTERGLOW_RUNS/sbr-plain --taught $AFTERGLOW_RUNS/sbr`
    """
    import json

    from models.behaviour_only import as_markdown, behaviour_only
    from models.runs import write_atomic

    found = behaviour_only(plain, taught)
    if out:
        write_atomic(out, json.dumps(found, indent=2).encode() + b"\n")
    typer.echo(as_markdown(found), nl=False)


@app.command()
def study(
    study: Annotated[Path, typer.Argument(help="the study's TOML; models/configs/studies holds examples")],
    out: Annotated[Path | None, typer.Option(help="study folder; default $AFTERGLOW_RUNS/studies/NAME")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="runs at a time")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of each run; default all cores")] = None,
    budget_minutes: Annotated[
        float | None, typer.Option(min=0, help="start no run after so many minutes; 0 only rewrites the table")
    ] = None,
) -> None:
    """Make the runs of a study that are not done yet, in its order, and rewrite its table after each.

    Killed and started again it goes on where it was: finished runs are skipped, the one that was stopped goes on from
    its last epoch. Batches here are too small to gain much from a second thread: give N cores N jobs of one thread.

    Example: `python -m models study models/configs/studies/llm-esr.toml --jobs 2 --threads 1 --budget-minutes 50`
    """
    from models.study import StudyRunner, train_command
    from models.study_plan import read_study

    plan = read_study(study)
    folder = out or _runs_folder() / "studies" / plan.name
    runner = StudyRunner(plan, folder, Console(stderr=True), train_command(plan.negatives, threads))
    with exit_codes("finished runs and epochs are kept, the same command goes on after them"):
        failed = runner.run(jobs=jobs, budget_minutes=budget_minutes)
    typer.echo(f"table: {folder / 'table.md'}")
    if failed:
        raise RunError(f"{folder}: {len(failed)} runs failed: {', '.join(cell.name for cell in failed)}")


@app.command(name="new-items")
def new_items(
    run: Annotated[Path, typer.Argument(help="folder of a finished run with a semantic view: the retraining")],
    out: Annotated[
        Path | None, typer.Option(help="folder of the measurement; default $AFTERGLOW_RUNS/new-items/NAME")
    ] = None,
    share: Annotated[float, typer.Option(min=0, max=0.5, help="of all items, held out of training entirely")] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="which items")] = 7,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default all cores")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="also write the figures here")] = None,
) -> None:
    """Measure what a text alone is worth: train a run's recipe without some items, add them back by text, rank.

    Held against popularity, against RUN, which was trained with them, and against rows that know less than the text or
    belong to other items. Killed and started again it goes on where it was.

    Example: `python -m models new-items $AFTERGLOW_RUNS/beauty-llm-esr --share 0.05 --json docs/results/new-items.json`
    """
    import json

    import torch

    from models.new_items import as_markdown, measure
    from models.runs import read_run_config, write_atomic

    if threads:
        torch.set_num_threads(threads)
    with exit_codes("what is prepared and finished epochs are kept, the same command goes on after them"):
        folder = out or _runs_folder() / "new-items" / read_run_config(run).name
        report = measure(run, folder, share, seed, Console(stderr=True))
        if json_out:
            write_atomic(json_out, json.dumps(report, indent=2).encode() + b"\n")
    typer.echo(as_markdown(report), nl=False)


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(help="folder of a finished run that was taught an LLM's interests")],
    count: Annotated[int, typer.Option(min=1, max=200, help="items explained of each test user")] = 10,
    depth: Annotated[
        int, typer.Option(min=0, help='parts of a category "A > B > C" that are compared; 0 = all of it')
    ] = 0,
    shuffles: Annotated[int, typer.Option(min=1, help="times that texts are dealt to other vectors")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="of shuffles and intervals")] = 7,
    json_out: Annotated[Path | None, typer.Option("--json", help="also write the figures here")] = None,
) -> None:
    """Hold explanations to a control: do phrases speak of the items they explain more than shuffled ones do?

    A phrase's category is the one whose titles are nearest by text alone; nothing of the trained space goes into it.

    Example: `python -m models explain $AFTERGLOW_RUNS/beauty-eimf-remi --json docs/results/explanations.json`
    """
    import json

    from models.explanation_control import as_markdown, measure
    from models.runs import write_atomic

    with exit_codes("the measurement starts from its beginning next time"):
        report = measure(run, count=count, depth=depth, n_shuffles=shuffles, seed=seed, console=Console(stderr=True))
        if json_out:
            write_atomic(json_out, json.dumps(report, indent=2).encode() + b"\n")
    typer.echo(as_markdown(report), nl=False)


@app.command()
def diversity(
    run: Annotated[Path, typer.Argument(help="folder of a finished run of a retriever")],
    count: Annotated[int, typer.Option(min=1, max=200, help="length of a list")] = 20,
    value: Annotated[
        list[float] | None, typer.Option(help="of diversity, once for each; by default 0, 0.1 and so on to 1")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="also write the figures here")] = None,
) -> None:
    """Measure what the request field `diversity` gives and costs: category entropy against NDCG, on the test users.

    Example: `python -m models diversity $AFTERGLOW_RUNS/beauty-eimf-remi --json docs/results/diversity.json`
    """
    import json

    from models.diversity_table import VALUES, as_markdown, measure
    from models.runs import write_atomic

    with exit_codes("the measurement starts from its beginning next time"):
        report = measure(run, count=count, values=value or VALUES, console=Console(stderr=True))
        if json_out:
            write_atomic(json_out, json.dumps(report, indent=2).encode() + b"\n")
    typer.echo(as_markdown(report), nl=False)


@app.command(name="meta-layers")
def meta_layers(
    run: Annotated[Path, typer.Argument(help="folder of a finished run of LLM4MSR with a scenario level")],
    one: Annotated[str | None, typer.Argument(help="a scenario; default every pair")] = None,
    other: Annotated[str | None, typer.Argument(help="another one")] = None,
) -> None:
    """Say how alike scenarios are to the LLM, how alike the layers made from that are, and how far they move scores.

    Also writes meta_layers.json and meta_layers.html, with plots, into the run.

    Example: `python -m models meta-layers $AFTERGLOW_RUNS/shop-llm4msr home deals`
    """
    from models.meta_report import as_lines, describe_meta_layers

    with exit_codes("the report starts from its beginning next time"):
        for line in as_lines(describe_meta_layers(run), one, other):
            typer.echo(line)


def _report(run: Path, negatives: int) -> None:
    from models.evaluate import evaluate

    report = evaluate(run, Console(stderr=True), n_negatives=negatives)
    for group, row in report["test"].items():
        told = "  ".join(f"{metric}={row[metric]:.4f}" for metric in report["headline"])
        typer.echo(f"{group:15} n={row['n']:7,}  {told}")
    typer.echo(f"report: {run / 'evaluation.html'}")


def _runs_folder() -> Path:
    return Path(os.environ.get("AFTERGLOW_RUNS", "runs"))


def main() -> None:
    """Run the command line; a known error is one message and exit code 1, Ctrl-C is 130."""
    # OpenMP reads it when torch is loaded. Threads that spin while they wait for each other made a step of LLM-ESR
    # four times slower (1.18 s against 0.30 s, median, 2 threads) on two cores that other processes use as well.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except ModelsError as error:
        stderr_console().print(f"error: {error}", style="red")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
