"""`scenarios.toml`: which artefacts answer a scenario, and its policy; read and checked, nothing loaded."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from service.artefact.directory import list_names, resolve
from service.artefact.files import role_of
from service.errors import ArtefactError, SettingsError
from service.settings import Settings

SCENARIOS_FILE = "scenarios.toml"
DEFAULT_COUNT = 10
MAX_CANDIDATES = 1_000


class ScenarioEntry(BaseModel):
    """One table of `scenarios.toml`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    retriever: str
    count: Annotated[int, Field(ge=1, le=200)] = DEFAULT_COUNT
    deadline_ms: Annotated[int | None, Field(ge=1)] = None
    seen: Literal["exclude", "allow"] | None = None
    categories: Annotated[
        list[Annotated[str, Field(min_length=1)]] | None,
        Field(min_length=1, description="show only items of these, or of categories below them"),
    ] = None
    ranker: str | None = None
    ranker_scenario: Annotated[str | None, Field(description="its scenario, where that has another name")] = None
    candidates: Annotated[int, Field(ge=1, le=MAX_CANDIDATES, description="retrieved for the ranker")] = 200


class ScenariosFile(BaseModel):
    """`scenarios.toml`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    default: str | None = None
    scenario: Annotated[
        dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")], ScenarioEntry], Field(min_length=1)
    ]


def read_scenarios(settings: Settings) -> ScenariosFile:
    """The scenarios with every pointer at one version, so that who reads it later loads the same.

    Raises:
        SettingsError: the scenarios file is missing or wrong, or there is nothing to serve.
    """
    file = _read_file(settings)
    where = scenarios_path(settings)
    scenarios = {}
    for name, entry in file.scenario.items():
        try:
            path = resolve(settings.artefacts, entry.retriever)
        except ArtefactError as error:
            raise SettingsError(f"{where}: scenario.{name}.retriever: {error}") from None
        pointers = {"retriever": f"{path.parent.name}@{path.name}"}
        if entry.ranker is not None:
            try:
                path = resolve(settings.artefacts, entry.ranker)
            except ArtefactError as error:
                raise SettingsError(f"{where}: scenario.{name}.ranker: {error}") from None
            pointers["ranker"] = f"{path.parent.name}@{path.name}"
        elif entry.ranker_scenario is not None:
            raise SettingsError(
                f"{where}: scenario.{name}.ranker_scenario: there is no ranker it could be a scenario of"
            )
        scenarios[name] = entry.model_copy(update=pointers)
    return file.model_copy(update={"scenario": scenarios})


def scenarios_path(settings: Settings) -> Path:
    """Where the scenarios file is, or would be."""
    return settings.scenarios or settings.artefacts / SCENARIOS_FILE


def _read_file(settings: Settings) -> ScenariosFile:
    path = scenarios_path(settings)
    if settings.scenarios is None and not path.is_file():
        names = [name for name in list_names(settings.artefacts) if _is_retriever(settings.artefacts, name)]
        if not names:
            raise SettingsError(
                f"{settings.artefacts}: found no artefact, expected folders <name>/<version>/ "
                "as `python -m export` writes them"
            )
        return ScenariosFile(scenario={name: ScenarioEntry(retriever=f"{name}@latest") for name in names})
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read as TOML: {error}") from None
    try:
        file = ScenariosFile.model_validate(content)
    except ValidationError as error:
        raise SettingsError("\n".join(f"{path}: {_fault(fault)}" for fault in error.errors())) from None
    if file.default is not None and file.default not in file.scenario:
        raise SettingsError(f"{path}: default: found {file.default!r}, expected one of {', '.join(file.scenario)}")
    return file


def _is_retriever(root: Path, name: str) -> bool:
    """Whether the newest version can be a scenario by itself; one that cannot be read is tried, and refused aloud."""
    return role_of(resolve(root, name)) != "ranker"


def _fault(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"] if part != "[key]")
    if fault["type"] == "missing":
        return f"{key}: is missing"
    if fault["type"] == "extra_forbidden":
        return f"{key}: is not a key of this file; expected {', '.join(ScenarioEntry.model_fields)}"
    return f"{key}: found {fault['input']!r}, {fault['msg'][0].lower()}{fault['msg'][1:]}"
