"""`python -m service`: serve artefacts over HTTP, or check one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from service.errors import AfterglowError, ArtefactError, ArtefactRefused, SettingsError

if TYPE_CHECKING:
    from service.registry import Registry
    from service.settings import Settings

EXIT_DIED, EXIT_SETTINGS, EXIT_REFUSED, EXIT_INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Serves recommendations from the artefacts that `python -m export` writes.",
)


@app.command()
def serve(
    artefacts: Annotated[Path | None, typer.Option(help="Folder with artefacts as name/version/.")] = None,
    scenarios: Annotated[
        Path | None, typer.Option(help="Scenarios file; by default scenarios.toml beside the artefacts.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [8000]; 0 takes a free one.")] = None,
    redis: Annotated[str | None, typer.Option(help="State store: redis://, rediss:// or unix:// URL.")] = None,
    embedded_redis: Annotated[
        bool | None, typer.Option("--embedded-redis/--no-embedded-redis", help="Start a Redis of our own [yes].")
    ] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Where the embedded Redis keeps its file.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that answer HTTP [1].")] = None,
    engine_process: Annotated[
        bool | None, typer.Option("--engine-process/--no-engine-process", help="Models in a process of their own [no].")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    log_format: Annotated[str | None, typer.Option(help="auto, json or console.")] = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    By default one process: one event loop for HTTP, one thread for the models. `--workers N` starts N of these on one
    port; with `--engine-process` the N only answer HTTP and one more process runs the models for all of them, for a GPU
    or for one large table. Processes that die are started again.

    Every option is also a setting `AFTERGLOW_<NAME>`, and there are more of those: see the README.

    Exit codes: 0 stopped, 1 a process died while starting, 2 a setting does not fit, 3 an artefact is refused,
    130 Ctrl-C.

    **Examples**

    `python -m service serve --artefacts artefacts`

    `python -m service serve --artefacts artefacts --port 9000 --redis redis://localhost:6379/0`

    `python -m service serve --artefacts artefacts --workers 2`

    `python -m service serve --artefacts artefacts --workers 6 --engine-process --device cuda`
    """
    if redis is not None and embedded_redis:
        _fail("give --redis or --embedded-redis, not both", EXIT_SETTINGS)
    # Before anything slow, the imports included, so that a stop asked for early is an orderly one too.
    signal.signal(signal.SIGTERM, lambda _sig, _frame: sys.exit(0))
    from pydantic import SecretStr

    from service.settings import load_settings

    try:
        settings = load_settings(
            artefacts=artefacts,
            scenarios=scenarios,
            host=host,
            port=port,
            redis=None if redis is None else SecretStr(redis),
            embedded_redis=embedded_redis,
            state_dir=state_dir,
            workers=workers,
            engine_process=engine_process,
            device=device,
            log_format=log_format,
        )
        code = _run(settings, prefer_embedded=bool(embedded_redis))
    except SettingsError as error:
        _fail(str(error), EXIT_SETTINGS)
    except ArtefactError as refusal:
        _fail(str(refusal), EXIT_REFUSED)
    except AfterglowError as died:
        _fail(str(died), EXIT_DIED)
    except KeyboardInterrupt:
        _fail("interrupted", EXIT_INTERRUPTED)
    raise typer.Exit(code)


@app.command()
def check(
    artefact: Annotated[Path, typer.Argument(help="Folder of one version: artefacts/NAME/VERSION.")],
) -> None:
    """Say whether the service would serve an artefact, with every reason against it.

    Exit codes: 0 it would, 3 it would not.

    **Example**

    `python -m service check artefacts/llm-esr/20261120T101500Z-0a1b2c3d`
    """
    from rich.console import Console

    from service.artefact.check import check_report

    try:
        with Console(stderr=True).status(f"checking {artefact}"):  # on a terminal; silent elsewhere
            reasons = check_report(artefact)
    except SettingsError as error:
        _fail(str(error), EXIT_SETTINGS)
    except KeyboardInterrupt:
        _fail("interrupted", EXIT_INTERRUPTED)
    if reasons:
        _fail(str(ArtefactRefused(str(artefact), reasons)), EXIT_REFUSED)
    typer.echo(f"{artefact}: ready to serve")


def _run(settings: Settings, *, prefer_embedded: bool) -> int:
    """Serves until stopped; the exit code."""
    # NumPy's BLAS reads this when it is first imported, which is below. Left alone it starts a thread per core, and on
    # 2 shared cores one top-k over 12,000 items then takes 0.9 ms instead of 0.24, a batch of 32 16 ms instead of 3.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(settings.intra_op_threads))
    from service.processes.mode import mode

    typer.echo(mode(settings))
    if settings.workers > 1 or settings.engine_process:
        return _run_several(settings, prefer_embedded=prefer_embedded)
    return _run_alone(settings, prefer_embedded=prefer_embedded)


def _run_alone(settings: Settings, *, prefer_embedded: bool) -> int:
    """HTTP and models in this process."""
    from service.announcement import announcement
    from service.app import create_app
    from service.logs import take_over_logging
    from service.server import DrainingServer, listen, settle
    from service.service import Service
    from service.state.redis_store import RedisStore
    from service.state.store import Limits

    log = take_over_logging(settings)
    with listen(settings) as listener, _redis_url(settings, prefer_embedded=prefer_embedded) as url:
        failures: list[BaseException] = []

        def on_failed(error: BaseException) -> None:
            failures.append(error)
            server.stop()

        def on_loaded(registry: Registry) -> None:
            settle()
            _announce(announcement(registry, settings.host, listener.getsockname()[1]))

        service = Service(
            settings,
            RedisStore(url, limits=Limits(user_ttl_s=settings.user_ttl_s, session_ttl_s=settings.session_ttl_s)),
            lambda: _load(settings),
            log=log,
            on_loaded=on_loaded,
            on_failed=on_failed,
        )
        server = DrainingServer(create_app(service), settings, service.readiness)
        server.run(sockets=[listener])
    if failures:
        raise failures[0]
    interrupted = server.stopped_by == signal.SIGINT
    if interrupted:
        _say("interrupted, stopped in order")
    code = EXIT_INTERRUPTED if interrupted else 0
    if service.is_loading:
        # The loading thread sits in native code; unloading the interpreter under it could crash a clean stop.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run_several(settings: Settings, *, prefer_embedded: bool) -> int:
    """HTTP, and models, in processes that this one starts and watches."""
    import asyncio

    from rich.console import Console

    from service.logs import take_over_logging
    from service.processes.mode import n_cores, threads_wanted
    from service.processes.supervisor import Supervisor
    from service.scenarios import read_scenarios
    from service.server import reserve

    log = take_over_logging(settings)
    if threads_wanted(settings) > n_cores():
        log.warning("more_threads_than_cores", threads=threads_wanted(settings), cores=n_cores())
    scenarios = read_scenarios(settings)
    with reserve(settings) as held, _redis_url(settings, prefer_embedded=prefer_embedded) as url:
        starting = Console(stderr=True).status("starting")  # on a terminal; silent elsewhere

        def on_ready(text: str) -> None:
            starting.stop()
            _announce(text)

        async def supervise() -> signal.Signals | None:
            return await Supervisor(settings, held.getsockname()[1], url, scenarios, log, on_ready).run()

        with starting:
            stopped_by = asyncio.run(supervise())
    if stopped_by == signal.SIGINT:
        _say("interrupted, stopped in order")
        return EXIT_INTERRUPTED
    return 0


@contextmanager
def _redis_url(settings: Settings, *, prefer_embedded: bool) -> Iterator[str]:
    """Where the state lives: the URL that was given, or a Redis server that goes when we go."""
    if settings.redis is not None and not prefer_embedded:
        yield settings.redis.get_secret_value()
        return
    if not settings.embedded_redis:
        raise SettingsError("no state store: give --redis URL, or --embedded-redis with --state-dir")
    if settings.state_dir_must_be_mounted and not settings.state_dir.is_mount():
        raise SettingsError(
            f"state_dir {settings.state_dir}: nothing is mounted there, so its events would go with the container; "
            "mount a volume (docker run -v afterglow-state:/state ...) or give --redis URL"
        )
    from service.state.embedded import EmbeddedRedis

    with EmbeddedRedis(settings.state_dir) as redis:
        yield redis.url


def _load(settings: Settings) -> Registry:
    """The registry, with a progress bar on a terminal."""
    from service.registry import load_registry

    with _progress() as progress:
        return load_registry(settings, progress)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda name, done, of: None
        return
    columns = (TextColumn("loading {task.fields[artefact]}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", artefact="")
        yield lambda name, done, of: bar.update(task, completed=done, total=of, artefact=name)


def _announce(text: str) -> None:
    typer.echo(text)
    sys.stdout.flush()


def _say(message: str) -> None:
    typer.echo(message, err=True)


def _fail(message: str, code: int) -> NoReturn:
    _say(message)
    raise typer.Exit(code)


if __name__ == "__main__":
    app()
