"""`python -m loadtest peers`: one virtual environment for each peer, from its optional extra."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Annotated, Any

import typer

from loadtest.bench.places import default_cache
from loadtest.console import INTERRUPTED, refused

ROOT = Path(__file__).parents[2]
INSTALLED = ("mosec", "litserve", "bentoml", "ray", "mlserver")  # `straightforward` needs what the service needs

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Other servers, installed each on its own, for `bench compare`.",
)


@app.command()
def install(
    names: Annotated[list[str] | None, typer.Argument(help=f"Which: {', '.join(INSTALLED)}. Without: all.")] = None,
    venvs: Annotated[Path | None, typer.Option(help="Folder. Without: bench/peers in $AFTERGLOW_RUNS.")] = None,
) -> None:
    """Makes **an environment for each peer** and installs the packages of its extra `peer-NAME`.

    Apart from each other and from the service, because they ask for different versions of the same packages.

    Examples:

        python -m loadtest peers install

        python -m loadtest peers install mosec litserve
    """
    folder = venvs or default_cache() / "peers"
    wanted = names or list(INSTALLED)
    if unknown := [name for name in wanted if name not in INSTALLED]:
        raise refused(f"peers: {unknown[0]!r} is not one of {', '.join(INSTALLED)}")
    failed = []
    try:
        for name in wanted:
            print(f"{name}: installing into {folder / name}", file=sys.stderr, flush=True)
            if not install_one(folder / name, requirements(name)):
                failed.append(name)
    except KeyboardInterrupt:
        print("interrupted; the environment begun last is gone", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    if failed:
        raise refused(f"peers: pip could not install {', '.join(failed)}; the reason stands above")


def requirements(name: str) -> list[str]:
    """What a peer's environment holds, from its extra in pyproject.toml."""
    told: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extra: list[str] = told["project"]["optional-dependencies"][f"peer-{name}"]
    return extra


def install_one(folder: Path, packages: list[str]) -> bool:
    """Whether the environment is there in the end; one that failed or was interrupted is removed."""
    pip = folder / "bin" / "pip"
    is_whole = False
    try:
        if not pip.is_file():
            venv.create(folder, with_pip=True, clear=True)
        done = subprocess.run([str(pip), "install", "-q", "--disable-pip-version-check", *packages], check=False)
        is_whole = done.returncode == 0
    finally:
        if not is_whole:
            shutil.rmtree(folder, ignore_errors=True)
    return is_whole
