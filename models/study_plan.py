"""A study's TOML: which runs it is made of, in the order they are worth having.

[datasets.NAME]   the [data] section of a run
[recipes.NAME]    what the runs of a recipe share: any of [model], [loss], [train]
[variants.NAME]   what sets a model apart, laid over both: any section
[[cells]]         datasets x recipes x seeds x variants to run, the first ones first
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.config import RunConfig, parse_config, read_toml, resolve_paths
from models.errors import ConfigError

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
Sections = dict[str, dict[str, Any]]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CellBlock(_Part):
    """A grid; seeds vary slower than variants, so that a model and its control are done together."""

    datasets: Annotated[tuple[Name, ...], Field(min_length=1)]
    recipes: Annotated[tuple[Name, ...], Field(min_length=1)]
    variants: Annotated[tuple[Name, ...], Field(min_length=1)]
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]


class StudyConfig(_Part):
    """The whole of a study's TOML."""

    name: Name
    control: Annotated[Name, Field(description="the variant that gains are measured against")]
    against: Annotated[
        tuple[Name, ...], Field(description="further variants that gains are measured against: shuffled texts, say")
    ] = ()
    negatives: Annotated[
        int, Field(ge=0, description="also rank among this many fixed random items; 0: the whole catalogue only")
    ] = 0
    datasets: dict[Name, dict[str, Any]]
    recipes: dict[Name, Sections]
    variants: dict[Name, Sections]
    cells: tuple[CellBlock, ...]

    @model_validator(mode="after")
    def _cells_name_what_exists(self) -> Self:
        for block in self.cells:
            for kind in ("datasets", "recipes", "variants"):
                unknown = [name for name in getattr(block, kind) if name not in getattr(self, kind)]
                if unknown:
                    raise ValueError(f"cells name {kind} {unknown}, expected some of {sorted(getattr(self, kind))}")
        for variant in (self.control, *self.against):
            if variant not in self.variants:
                raise ValueError(f"control is {variant!r}, expected one of {sorted(self.variants)}")
        return self


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    dataset: str
    recipe: str
    variant: str
    seed: int
    config: RunConfig

    @property
    def name(self) -> str:
        return self.config.name


@dataclass(frozen=True)
class Study:
    """A study and its runs, each once, in the order they are to be made."""

    name: str
    control: str
    negatives: int
    cells: tuple[Cell, ...]
    against: tuple[str, ...] = ()


def read_study(path: Path) -> Study:
    """The study described by the TOML file `path`.

    Raises:
        ConfigError: the file cannot be read, names something it does not define, or a cell is not a valid run.
    """
    try:
        config = StudyConfig.model_validate(read_toml(path))
    except ValidationError as error:
        faults = [f"  {'.'.join(map(str, e['loc'])) or 'study'}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{path}: the study does not fit\n" + "\n".join(faults)) from None
    cells = {cell.name: cell for cell in _cells(config, path)}  # a cell that two blocks name runs once, where first
    return Study(config.name, config.control, config.negatives, tuple(cells.values()), config.against)


def _cells(config: StudyConfig, path: Path) -> Iterator[Cell]:
    for block in config.cells:
        for dataset in block.datasets:
            for recipe in block.recipes:
                for seed in block.seeds:
                    for variant in block.variants:
                        name = f"{dataset}-{recipe}-{variant}-s{seed}"
                        raw: dict[str, Any] = {"name": name, "seed": seed, "data": dict(config.datasets[dataset])}
                        for part in (config.recipes[recipe], config.variants[variant]):
                            for section, values in part.items():
                                raw[section] = {**raw.get(section, {}), **values}
                        run = parse_config(resolve_paths(raw), f"{path}: cell {name}")
                        yield Cell(dataset, recipe, variant, seed, run)
