"""`python -m loadtest bench ...`: the parts that are asked for, one after the other, each written when it is done."""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from loadtest.bench import document, machine, parts, tables
from loadtest.bench.artefacts import Shape
from loadtest.bench.parts import Bench
from loadtest.bench.places import default_cache
from loadtest.bench.servers import PEERS, ROOT
from loadtest.bench.soak import aborts, soak
from loadtest.console import INTERRUPTED, refused
from loadtest.errors import InputError, LoadtestError
from loadtest.options import flat
from loadtest.results import portable

Plan = dict[str, Callable[[Bench], dict[str, Any]]]

SIZES = {"10k": 10_000, "100k": 100_000, "1m": 1_000_000}
MODELS = ("sasrec", "llm-esr", "eimf")
KINDS = ("calibrate", "capacity", "rates", "curve", "budgets", "overload", "soak", "aborts")
# The level of the ETUDE study and that of Serenade: (items, requests a second, p90 in ms).
RATES = {"1m": (500.0, 50.0), "100k": (1_000.0, 7.0)}

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option(help="Result: parts are added to it. The page is written beside it.")]


@dataclass(frozen=True)
class What:
    """Catalogues and model."""

    items: Annotated[str, typer.Option(help=f"Catalogue sizes, separated by commas: {', '.join(SIZES)}.")] = (
        "10k,100k,1m"
    )
    model: Annotated[str, typer.Option(help="sasrec, llm-esr (two views) or eimf (four queries).")] = "sasrec"
    dim: Annotated[int, typer.Option(help="Width of the item table.")] = 64

    def shapes(self) -> dict[str, Shape]:
        if self.model not in MODELS:
            raise refused(f"--model: {self.model!r} is not one of {', '.join(MODELS)}")
        return {size: Shape(self.model, SIZES[size], self.dim) for size in chosen(self.items, SIZES, "--items")}


@dataclass(frozen=True)
class How:
    """How it is measured."""

    settings: Annotated[
        list[str] | None,
        typer.Option("--try", help="A way to run the service, as settings `name=value,name=value`; repeat it to tune."),
    ] = None
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of which the middle one counts.")] = 3
    seconds: Annotated[float, typer.Option(min=0.2, help="Length of one closed-loop measurement.")] = 3.0
    again: Annotated[bool, typer.Option("--again", help="Measure parts anew that the result holds already.")] = False
    root: Annotated[Path, typer.Option(help="Checkout whose service is measured.")] = ROOT
    cache: Annotated[
        Path | None, typer.Option(help="Where made artefacts are kept. Without: bench/ in $AFTERGLOW_RUNS.")
    ] = None
    venvs: Annotated[Path | None, typer.Option(help="Peers' environments. Without: peers/ in the cache.")] = None
    server_cores: Annotated[
        str | None, typer.Option(help="Cores of the servers, like 0-5. Without: divided by itself.")
    ] = None
    generator_cores: Annotated[str | None, typer.Option(help="Cores of the generators, one process on each.")] = None

    def bench(self, scratch: Path) -> Bench:
        divided = machine.divide(sorted(os.sched_getaffinity(0)))
        server, generator = machine.parse_cores(self.server_cores), machine.parse_cores(self.generator_cores)
        cores = machine.Cores(server or divided.server, generator or divided.generator)
        cache = self.cache or default_cache()
        return Bench(
            cores,
            cache,
            self.venvs or cache / "peers",
            scratch,
            _say,
            [_settings(text) for text in self.settings or [""]],
            self.rounds,
            self.seconds,
            root=self.root.resolve(),
        )


@app.callback()
@flat
def bench(
    context: typer.Context,
    what: What,
    how: How,
    only: Annotated[str, typer.Option(help=f"Kinds of parts, separated by commas: {', '.join(KINDS)}.")] = (
        "calibrate,capacity,rates,curve,budgets,overload"
    ),
    requests: Annotated[int, typer.Option(min=1, help="Requests of the soak.")] = 1_000_000,
    n_aborts: Annotated[int, typer.Option("--aborts", min=1, help="Clients that hang up in `aborts`.")] = 100_000,
    out: Out = Path("bench.json"),
) -> None:
    """**Benchmark**: starts the service itself and measures it as ratios to what runs beside it.

    What the result holds already is left alone, so that an interrupted run goes on.

    Examples:

        python -m loadtest bench --out bench.json

        python -m loadtest bench --items 10k --only budgets

        python -m loadtest bench --only capacity --items 1m --try intra_op_threads=1 --try intra_op_threads=2

        python -m loadtest bench compare --peers mosec,straightforward
    """
    if context.invoked_subcommand is not None:
        return
    plan: Plan = {}
    for kind in chosen(only, KINDS, "--only"):
        plan |= _plan(kind, what.shapes(), requests, n_aborts)
    _measure(plan, how, out)


@app.command()
@flat
def compare(
    what: What,
    how: How,
    peers: Annotated[str, typer.Option(help=f"Separated by commas: {', '.join(PEERS)}.")] = "straightforward,mosec",
    out: Out = Path("bench.json"),
) -> None:
    """The **same model behind other servers**, each at its best of workers, threads and batch, measured in turn.

    Peers are installed by `python -m loadtest peers install`.

    Examples:

        python -m loadtest bench compare --peers mosec --items 1m
    """
    plan: Plan = {}
    for size, shape in what.shapes().items():
        for peer in chosen(peers, PEERS, "--peers"):
            plan[f"compare/{peer}/{_tail(shape, size)}"] = partial(parts.compare, shape=shape, peer=peer)
    _measure(plan, how, out)


@app.command()
def page(
    results: Annotated[list[Path], typer.Argument(help="Results of `bench`; parts measured last win.")],
    out: Annotated[Path, typer.Option(help="One merged result; the page stands beside it.")] = Path("bench-all.json"),
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables, too.")] = False,
) -> None:
    """One **result and page** from several.

    Examples:

        python -m loadtest bench page one.json other.json --out all.json --markdown
    """
    from loadtest.bench.page import write_page

    try:
        merged = document.merge(results, out)
        print(f"{out}\n{write_page(merged, out)}")
    except LoadtestError as error:
        raise refused(str(error)) from None
    if markdown:
        print(tables.markdown(merged["parts"]))


def _plan(kind: str, shapes: Mapping[str, Shape], n_requests: int, n_aborts: int) -> Plan:
    match kind:
        case "calibrate":
            return {"calibrate": parts.calibrate}
        case "aborts":
            return {"aborts": lambda bench: aborts(bench, n_aborts)}
        case "soak":
            return {
                f"soak/{_tail(shape, size)}": partial(soak, shape=shape, n_requests=n_requests)
                for size, shape in shapes.items()
            }
        case "rates":
            return {
                f"rates/{_tail(shape, size)}": partial(
                    parts.rate, shape=shape, per_s=RATES[size][0], limit_ms=RATES[size][1]
                )
                for size, shape in shapes.items()
                if size in RATES
            }
    work: Callable[..., dict[str, Any]] = getattr(parts, kind)
    return {f"{kind}/{_tail(shape, size)}": partial(work, shape=shape) for size, shape in shapes.items()}


def _tail(shape: Shape, size: str) -> str:
    return f"{shape.kind}-{size}-d{shape.dim}"


def _measure(plan: Plan, how: How, out: Path) -> None:
    from loadtest.bench.page import write_page

    command = portable(f"python -m loadtest {shlex.join(sys.argv[1:])}")
    try:
        done = document.read(out)["parts"]
        with tempfile.TemporaryDirectory(prefix="afterglow-bench-") as scratch:
            bench = how.bench(Path(scratch))
            told = machine.describe(bench.cores, bench.root)
            for name, work in plan.items():
                if name in done and not how.again:
                    _say(f"{name}: already in {out}; --again measures it anew")
                    continue
                _say(f"{name}: begins")
                document.add(out, name, work(bench), machine=told, command=command)
                _say(f"{name}: written to {out}")
        if not plan:
            raise InputError("nothing to measure: none of the chosen kinds has a part for these sizes")
        print(f"{out}\n{write_page(document.read(out), out)}")
    except LoadtestError as error:
        raise refused(str(error)) from None
    except KeyboardInterrupt:
        print(f"interrupted; finished parts are in {out}, servers are stopped", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def _settings(text: str) -> Mapping[str, str]:
    pairs = [part for part in text.split(",") if part]
    for pair in pairs:
        if not re.fullmatch(r"[a-z_]+=.+", pair):
            raise InputError(f"--try: {pair!r} is not of the form name=value")
    return dict(pair.split("=", 1) for pair in pairs)


def chosen(text: str, known: Iterable[str], option: str) -> list[str]:
    """The names of a comma-separated option, each of them known."""
    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    for name in names:
        if name not in known:
            raise refused(f"{option}: {name!r} is not one of {', '.join(known)}")
    return names


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
