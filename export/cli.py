"""`python -m export`: runs, baselines and models of the user's own become artefacts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from service.artefact.manifest import HISTORY_EVENTS

Out = Annotated[Path, typer.Option(help="Folder of all artefacts; the new one is OUT/NAME/VERSION.")]
Name = Annotated[str | None, typer.Option(help="Name of the artefact.")]


class Baseline(StrEnum):
    """Artefacts without a model."""

    NOOP = "noop"
    TOPK_ONLY = "topk_only"
    POPULARITY = "popularity"


class HistorySourceName(StrEnum):
    """Whose events make a history."""

    USER = "user"
    SESSION = "session"
    USER_SESSION = "user+session"


class PaddingName(StrEnum):
    """Sides of a row of item_seq."""

    LEFT = "left"
    RIGHT = "right"


HistorySourceOption = Annotated[HistorySourceName, typer.Option(help="Whose events make a history.")]
HistoryEvents = Annotated[
    list[str] | None,
    typer.Option(help=f"Type of event that counts, once for each type; by default {', '.join(HISTORY_EVENTS)}."),
]


class _RunByDefault(TyperGroup):
    """`python -m export RUN` means `python -m export run RUN`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in self.get_help_option_names(ctx):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RunByDefault,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Make artefacts the service can load. `python -m export RUN` is short for `python -m export run RUN`.",
)


@app.command()
def run(
    run: Annotated[Path, typer.Argument(help="Folder of a finished training run.")],
    out: Out = Path("artefacts"),
    name: Name = None,
    history_source: HistorySourceOption = HistorySourceName.USER_SESSION,
    history_event: HistoryEvents = None,
) -> None:
    """Export a training run: its graph, item table, golden answers, manifest; held to torch, then to the service.

    A retriever's run becomes an artefact with `encoder.onnx`, a ranker's one with `ranker.onnx`.

    Example: `python -m export runs/beauty-llm-esr --out artefacts`
    """
    with _reporting(total=5) as step:
        step("loading the run")
        from export.artefact import write_artefact
        from export.run import draft_of
        from models.contracts import RankerModel
        from models.runs import load_run

        loaded, events = load_run(run), tuple(history_event or HISTORY_EVENTS)
        if isinstance(loaded.model, RankerModel):
            from export.ranker import write_ranker_artefact

            path = write_ranker_artefact(
                loaded, out, name=name, history_source=history_source.value, history_events=events, on_step=step
            )
        else:
            draft = draft_of(
                loaded, name=name, history_source=history_source.value, history_events=events, on_step=step
            )
            path = write_artefact(draft, out, on_step=step)
    typer.echo(path)


@app.command()
def baseline(
    kind: Annotated[Baseline, typer.Argument(help="Which baseline.")],
    dataset: Annotated[Path, typer.Argument(help="Dataset folder: catalogue and training counts.")],
    out: Out = Path("artefacts"),
    name: Name = None,
    split: Annotated[str, typer.Option(help="Split whose training part is counted.")] = "leave_one_out",
) -> None:
    """Make an artefact without a model: what a model must beat, and what the service costs alone.

    Example: `python -m export baseline popularity $AFTERGLOW_DATA/amazon_beauty --out artefacts`
    """
    with _reporting(total=3) as step:
        step("reading the dataset")
        from export.baselines import write_baseline

        path = write_baseline(kind.value, dataset, out, name=name, split=split, on_step=step)
    typer.echo(path)


@app.command()
def pack(
    encoder: Annotated[Path, typer.Option(help="ONNX graph: item_seq, seq_len -> queries.")],
    items: Annotated[Path, typer.Option(help="float32 .npy (n_items + 1, dim); row 0 is padding.")],
    item_ids: Annotated[Path, typer.Option(help="Text file, one item id a line, for rows 1..n_items.")],
    out: Out = Path("artefacts"),
    name: Name = None,
    max_seq_len: Annotated[int, typer.Option(min=1, help="Newest items of a history the graph gets at most.")] = 50,
    padding: Annotated[PaddingName, typer.Option(help="Side of item_seq that is filled with 0.")] = PaddingName.LEFT,
    minimum_history: Annotated[
        int, typer.Option(min=0, help="Shorter histories are answered by popularity; 0 asks the model even then.")
    ] = 1,
    history_source: HistorySourceOption = HistorySourceName.USER_SESSION,
    history_event: HistoryEvents = None,
    popularity: Annotated[Path | None, typer.Option(help="Text file, one count a line.")] = None,
    titles: Annotated[Path | None, typer.Option(help="Text file, one title a line, empty where unknown.")] = None,
    categories: Annotated[Path | None, typer.Option(help="Text file, one category a line, empty if unknown.")] = None,
) -> None:
    """Pack a model of your own; refused with every reason at once. docs/bring-your-own-model.md has a whole example.

    Example: `python -m export pack --encoder my.onnx --items my.npy --item-ids ids.txt --out artefacts`
    """
    with _reporting(total=3) as step:
        from export.pack import Package
        from export.pack import pack as write_package

        package = Package(
            name=name or encoder.stem.lower(),
            encoder=encoder,
            items=items,
            item_ids=item_ids,
            max_seq_len=max_seq_len,
            padding=padding.value,
            minimum_history=minimum_history,
            history_source=history_source.value,
            history_events=tuple(history_event or HISTORY_EVENTS),
            popularity=popularity,
            titles=titles,
            categories=categories,
        )
        path = write_package(package, out, step)
    typer.echo(path)


@app.command("add-items")
def add_items(
    artefact: Annotated[Path, typer.Argument(help="Folder of one version, or ARTEFACTS/NAME for its latest.")],
    items: Annotated[
        Path, typer.Argument(help="The new items: .parquet, .csv or .jsonl with item_id, title and text columns.")
    ],
    run: Annotated[Path, typer.Option(help="The training run the artefact was exported from.")],
    answers: Annotated[
        Path | None,
        typer.Option(help="Ingested vectors of the new texts, if the knowledge came from an endpoint's model."),
    ] = None,
) -> None:
    """Add items that have a text and no interactions yet: a new version beside the old one, in seconds, untrained.

    A new item's row comes from its text alone: the model's adapter gives the semantic half, a map fitted to the trained
    items the collaborative half. The columns are those of a dataset's items.parquet; an endpoint or scenario that
    points to `NAME@latest` serves the new version after its next start.

    Examples:

    - `python -m export add-items artefacts/beauty-llm-esr new.csv --run runs/beauty-llm-esr`
    - `python -m export add-items artefacts/shop/20261121T145658Z-3af94832 new.parquet --run runs/shop`
    """
    console = Console(stderr=True)
    with _reporting(total=7) as step:
        step("loading the artefact and its run")
        from export.add_items import add_items as write_added
        from export.add_items import locate
        from export.new_items_file import read_new_items
        from models.runs import load_run
        from service.artefact.directory import open_artefact

        table = read_new_items(items)
        folder = locate(artefact)
        added = write_added(
            open_artefact(folder),
            table,
            load_run(run),
            folder.resolve().parent.parent,
            answers=answers,
            console=console,
            on_step=step,
        )
    told = ""
    if added.collaborative is not None:
        share = added.collaborative["explained_on_left_out_items"]
        told = f"; a text explains {share:.0%} of what interactions taught of an item (on items left out of the fit)"
    console.print(f"{added.n_added:,} items added, {added.n_items:,} in all{told}", highlight=False, soft_wrap=True)
    typer.echo(added.path)


@contextmanager
def _reporting(total: int) -> Iterator[Any]:
    """Steps on stderr; a known error is one message and exit code 1, Ctrl-C is 130 and leaves nothing behind."""
    from export.errors import ExportError
    from export.progress import steps
    from models.errors import ModelsError
    from service.errors import AfterglowError

    console = Console(stderr=True)
    try:
        with steps(console, total) as step:
            yield step
    except (ExportError, ModelsError, AfterglowError) as error:
        console.print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        console.print("interrupted, nothing was written", highlight=False)
        # An interrupt inside an exec() of torch leaves CPython decided to die by the signal (run_eval_code_obj); the
        # next exec() makes it forget, and the code below counts.
        exec("")
        raise typer.Exit(130) from None


def main() -> None:
    """Run the command line."""
    app(prog_name="python -m export")
