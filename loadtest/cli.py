"""`python -m loadtest ...`: measure a running service over HTTP, and draw the report."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from loadtest.bench.cli import app as bench_app
from loadtest.capacity import Limits, Search, find_capacity, http_steps
from loadtest.chaos import Fault, Ledger, Timeline, inflict, recovery, verdict, verify_stored
from loadtest.client import Client
from loadtest.console import finish, refused, run, show_capacity, show_chaos, show_load, show_replay
from loadtest.errors import InputError, LoadtestError
from loadtest.locust_process import run_locust
from loadtest.open_loop import run_open_loop
from loadtest.options import DEFAULT_HOST, Ask, Host, Pace, Scenario, Sessions, flat
from loadtest.peers.install import app as peers_app
from loadtest.predictions import (
    check_against_dataset,
    check_against_evaluation,
    compare,
    read_evaluation,
    read_predictions,
)
from loadtest.progress import stop_on_interrupt
from loadtest.replay import Replay, promises, replay
from loadtest.results import Result, describe_service, process_use, read_process

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Load, capacity, replay and fault tests of a running afterglow service, over HTTP alone.",
)

app.add_typer(bench_app, name="bench")
app.add_typer(peers_app, name="peers")

Rate = Annotated[float, typer.Option(help="Arrivals per second; events and recommendations both count.")]
Out = Annotated[Path, typer.Option(help="Result file.")]


@app.command()
@flat
def open_loop(
    ask: Ask,
    sessions: Sessions,
    pace: Pace,
    rate: Rate,
    host: Host = DEFAULT_HOST,
    out: Out = Path("loadtest-open-loop.json"),
) -> None:
    """Latency at a **fixed arrival rate**: requests leave on schedule, latency counts from the planned moment.

    Examples:

        python -m loadtest open-loop --rate 200

        python -m loadtest open-loop --rate 500 --state request --items ids.txt --out at-500.json
    """

    async def measure() -> Result:
        plan = pace.plan(rate, ask.seed)
        async with Client(host, max_connections=pace.max_connections) as client:
            service = await describe_service(client)
            calls, described = await sessions.calls(client, ask, service, name="load", n_active=pace.active_sessions)
            result = Result("open_loop", {**plan.describe(), **pace.describe(), **described}, service)
            before = await read_process(client)
            with stop_on_interrupt() as stop:
                done = await run_open_loop(client, calls, plan, stop=stop)
                result.interrupted = stop.is_set()
            after = await read_process(client)
            result.findings = {
                **done.findings(),
                "service_process": process_use(before, after, n_requests=len(done.recorder)),
            }
        return result

    finish(run(measure()), out, show_load)


@app.command()
@flat
def capacity(
    ask: Ask,
    sessions: Sessions,
    pace: Pace,
    p99_ms: Annotated[float, typer.Option(help="Highest p99 of recommend that counts as carried.")] = 50.0,
    start: Annotated[float, typer.Option(help="First rate, requests per second.")] = 50.0,
    factor: Annotated[float, typer.Option(help="From one rate to the next.")] = 1.5,
    maximum: Annotated[float, typer.Option(help="Highest rate to try.")] = 20_000.0,
    refinements: Annotated[int, typer.Option(help="Halvings between the last good and the first bad rate.")] = 3,
    host: Host = DEFAULT_HOST,
    out: Out = Path("loadtest-capacity.json"),
) -> None:
    """The **highest arrival rate** at which p99 holds, and errors and degraded replies each stay within 1 %.

    Examples:

        python -m loadtest capacity --duration-s 10

        python -m loadtest capacity --start 200 --state request --out capacity.json
    """

    async def measure() -> Result:
        limits, search = Limits(p99_ms=p99_ms), Search(start, factor, maximum, refinements)
        plan = pace.plan(start, ask.seed)
        async with Client(host, max_connections=pace.max_connections) as client:
            service = await describe_service(client)
            calls, described = await sessions.calls(
                client, ask, service, name="capacity", n_active=pace.active_sessions
            )
            described |= {"limits": asdict(limits), "search": asdict(search)}
            result = Result("capacity", {**plan.describe(), **pace.describe(), **described}, service)
            with stop_on_interrupt() as stop:
                step = http_steps(client, calls, plan, limits, stop=stop)
                result.findings = await find_capacity(step, search, stop=stop)
                result.interrupted = stop.is_set()
        return result

    finish(run(measure()), out, show_capacity)


@app.command()
@flat
def chaos(
    ask: Ask,
    pace: Pace,
    rate: Rate,
    pid: Annotated[int | None, typer.Option(help="Process to SIGKILL.")] = None,
    kill_command: Annotated[str | None, typer.Option(help="Shell command that does the harm instead.")] = None,
    at_s: Annotated[float | None, typer.Option(help="When. Without: in the middle.")] = None,
    down_s: Annotated[float, typer.Option(help="From the kill to the restart command.")] = 2.0,
    restart_command: Annotated[
        str | None, typer.Option(help="Starts it again and returns. Without: it comes back by itself.")
    ] = None,
    up_command: Annotated[
        str | None, typer.Option(help="Polled after that; exit code 0 says that it answers again.")
    ] = None,
    back_within_s: Annotated[float, typer.Option(help="Promise: from its return to tier `model`.")] = 3.0,
    host: Host = DEFAULT_HOST,
    out: Out = Path("loadtest-chaos.json"),
) -> None:
    """Load while a dependency is **killed and comes back**: tiers, errors, recovery, and no `stored` event missing.

    Every session belongs to a user of its own, so that all its events can be looked up afterwards. Exit code 1 when a
    promise is broken: no failed recommend, back to tier `model` in time, nothing stored was lost.

    Examples:

        python -m loadtest chaos --rate 100 --duration-s 60 --pid 4711

        python -m loadtest chaos --rate 100 --kill-command 'docker kill redis' --restart-command 'docker start redis'
    """

    async def measure() -> Result:
        middle_s = pace.duration_s / 2 if at_s is None else at_s
        fault = Fault(middle_s, pid, kill_command, down_s if restart_command else 0.0, restart_command, up_command)
        if fault.at_s + fault.down_s >= pace.duration_s:
            raise InputError(f"chaos: the fault does not end within the {pace.duration_s:g} s of load: {fault}")
        plan = pace.plan(rate, ask.seed)
        sessions = Sessions(known_share=1.0, n_users=0)
        async with Client(host, max_connections=pace.max_connections) as client:
            service = await describe_service(client)
            calls, described = await sessions.calls(client, ask, service, name="chaos", n_active=pace.active_sessions)
            described |= {"fault": fault.describe(), "back_within_s": back_within_s}
            result = Result("chaos", {**plan.describe(), **pace.describe(), **described}, service)
            ledger, timeline = Ledger(), Timeline()
            with stop_on_interrupt() as stop:
                done = await run_open_loop(
                    client,
                    calls,
                    plan,
                    stop=stop,
                    on_reply=ledger.note,
                    beside=lambda clock: inflict(fault, timeline, clock, stop),
                    title="load with a fault",
                )
                result.interrupted = stop.is_set()
            with stop_on_interrupt() as stop:  # an interrupted load is still checked for losses
                durability = await verify_stored(client, ledger, stop=stop)
            found = recovery(done.recorder, timeline, back_within_s=back_within_s)
            result.findings = {
                **done.findings(),
                "timeline": timeline.describe(),
                "recovery": found,
                "durability": durability,
                "verdict": verdict(found, durability, back_within_s=back_within_s),
            }
        return result

    finish(run(measure()), out, show_chaos)


@app.command(name="replay")
def replay_test_set(
    expected: Annotated[Path, typer.Option(help="Folder of an evaluated run, or its predictions.parquet.")],
    dataset: Annotated[
        Path | None, typer.Option(help="Dataset folder: also checks that the file is its whole leave-one-out test set.")
    ] = None,
    k: Annotated[int, typer.Option(min=1, max=20, help="Places of the list that are compared.")] = 10,
    tie_tolerance: Annotated[float, typer.Option(help="Score gap up to which two items count as tied.")] = 1e-4,
    min_same_share: Annotated[float, typer.Option(help="Promise: share of users with the same list.")] = 0.999,
    scenario: Scenario = None,
    batch_size: Annotated[int, typer.Option(help="Users per call, at most 256.")] = 128,
    concurrency: Annotated[int, typer.Option(help="Calls in flight.")] = 2,
    budget_ms: Annotated[int, typer.Option(help="Deadline of one call.")] = 30_000,
    limit: Annotated[int | None, typer.Option(min=1, help="First users only.")] = None,
    host: Host = DEFAULT_HOST,
    out: Out = Path("loadtest-replay.json"),
) -> None:
    """Is the **served answer the evaluated answer**? A whole test set through `/v1/recommend/batch`.

    Compares HR@k, NDCG@k (and recall@k where users have several targets) and every user's list with the offline
    predictions, and those with the evaluation.json beside them. Exit code 1 when a promise is broken.

    Examples:

        python -m loadtest replay --expected runs/beauty-eimf-remi

        python -m loadtest replay --expected runs/beauty --dataset $AFTERGLOW_DATA/amazon_beauty
    """

    async def measure() -> Result:
        how = Replay(batch_size, concurrency, budget_ms, scenario, count=k)
        cases = read_predictions(expected, k=k)
        evaluation = read_evaluation(expected, k=k)
        evaluated = None if evaluation is None else check_against_evaluation(cases, evaluation, k=k)
        if dataset is not None and evaluation is not None and evaluation["split"] != "leave_one_out":
            raise InputError(
                f"{expected}: was evaluated on split '{evaluation['split']}', --dataset works out leave_one_out alone; "
                "leave it out, the file is held to its evaluation"
            )
        coverage = None if dataset is None else check_against_dataset(cases, dataset)
        asked = cases[:limit]
        async with Client(host, max_connections=concurrency) as client:
            options = {**asdict(how), "expected": str(expected), "users": len(asked), "of": len(cases)}
            result = Result("replay", options, await describe_service(client))
            with stop_on_interrupt() as stop:
                replayed = await replay(client, asked, how, stop=stop)
                result.interrupted = stop.is_set()
        found = compare(asked[: len(replayed.replies)], replayed.replies, k=k, tie_tolerance=tie_tolerance)
        result.findings = {
            "comparison": found,
            "coverage": coverage,
            "evaluation": evaluated,
            "speed": replayed.speed(),
            "verdict": promises(
                found, coverage, n_users=len(cases), min_same_share=min_same_share, evaluated=evaluated
            ),
        }
        return result

    finish(run(measure()), out, show_replay)


@app.command()
@flat
def locust(
    ask: Ask,
    sessions: Sessions,
    users: Annotated[int, typer.Option(min=1, help="Users at the same time.")] = 50,
    duration_s: Annotated[float, typer.Option(min=1, help="Length of the run.")] = 60.0,
    think_s: Annotated[float, typer.Option(min=0, help="Mean pause between two looks of a user.")] = 1.0,
    budget_ms: Annotated[float, typer.Option(help="Deadline sent with each request, and the limit for goodput.")] = 100,
    host: Host = DEFAULT_HOST,
    out: Out = Path("loadtest-locust.json"),
) -> None:
    """**Users who walk sessions**, by locust in a process of its own: event, recommend, think, again.

    A closed loop: users wait for replies. For the latency at a given load use `open-loop`.

    Examples:

        python -m loadtest locust --users 100 --duration-s 60

        python -m loadtest locust --dataset $AFTERGLOW_DATA/yoochoose-100k --think-s 0.2
    """

    async def look_up(folder: Path) -> tuple[Ask, dict[str, object]]:
        async with Client(host) as client:
            service = await describe_service(client)
            known = asdict(ask) | {"event_type": ask.counted_event(service)}
            if sessions.dataset is None and ask.items is None:
                known["items"] = folder / "item_ids.txt"
                known["items"].write_text("\n".join(await ask.item_ids(client)), encoding="utf-8")
        return Ask(**known), service

    with tempfile.TemporaryDirectory(prefix="afterglow-locust-") as folder:
        told, _ = run(look_up(Path(folder)))
        code = run_locust(
            told,
            sessions,
            host=host,
            users=users,
            duration_s=duration_s,
            think_s=think_s,
            budget_ms=budget_ms,
            out=out,
        )
    raise typer.Exit(code)


@app.command()
def report(
    results: Annotated[list[Path], typer.Argument(help="Result files of the other commands.")],
    out: Annotated[Path, typer.Option(help="Folder for report.json and report.html.")] = Path("loadtest-report"),
) -> None:
    """One **page with plots** (self-contained HTML) and the same figures as JSON, from result files.

    Examples:

        python -m loadtest report at-100.json at-500.json capacity.json --out report
    """
    # Here, because only the page needs matplotlib, and a generator starts faster without it.
    from loadtest.report import write_report

    try:
        json_path, html_path = write_report(results, out)
    except LoadtestError as error:
        raise refused(str(error)) from None
    print(f"{json_path}\n{html_path}")
