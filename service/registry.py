"""Which model answers which scenario: the artefacts that `scenarios.toml` points to, loaded and checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.artefact.directory import open_artefact, resolve
from service.artefact.ranker_directory import open_ranker
from service.errors import ArtefactRefused, NotFound, SettingsError
from service.inference.loader import load
from service.processes.mode import scan_threads
from service.scenarios import ScenarioEntry, ScenariosFile, read_scenarios, scenarios_path
from service.served_model import ServedModel, is_within
from service.served_ranker import ServedRanker, load_ranker
from service.settings import Settings


@dataclass(frozen=True, eq=False)
class RankerChoice:
    """A ranker as one scenario uses it."""

    ranker: ServedRanker
    scenario_index: int  # row of the ranker's own scenarios
    candidates: int  # how many the retriever proposes to it
    index_map: NDArray[np.int32]  # (n_items + 1,) the ranker's index of each row of the retriever's item table


@dataclass(frozen=True)
class Scenario:
    """A place where recommendations are shown, and its policy."""

    name: str
    model: ServedModel
    count: int
    deadline_ms: int
    seen: Literal["exclude", "allow"]
    ranker: RankerChoice | None = None
    categories: tuple[str, ...] = ()  # items of other ones are not shown here; none: all are


class Registry:
    """Scenarios by name. Immutable: a request that holds a scenario keeps the model it started with."""

    def __init__(self, scenarios: Iterable[Scenario], default: str | None = None) -> None:
        self.scenarios: Mapping[str, Scenario] = {scenario.name: scenario for scenario in scenarios}
        only = next(iter(self.scenarios)) if len(self.scenarios) == 1 else None
        self.default = default or only
        self.models: Sequence[ServedModel] = list(
            {id(scenario.model): scenario.model for scenario in self.scenarios.values()}.values()
        )
        choices = [scenario.ranker for scenario in self.scenarios.values() if scenario.ranker is not None]
        self.rankers: Sequence[ServedRanker] = list({id(choice.ranker): choice.ranker for choice in choices}.values())

    def scenario(self, name: str | None) -> Scenario:
        """The named scenario, or the default one.

        Raises:
            NotFound: `unknown_scenario`.
        """
        if name is None and self.default is None:
            raise NotFound("Several scenarios are served and none is the default: name one.", code="unknown_scenario")
        found = self.scenarios.get(name or self.default or "")
        if found is None:
            raise NotFound("No such scenario; GET /v1/models lists them.", code="unknown_scenario")
        return found

    def model(self, name: str, version: str | None) -> ServedModel:
        """The loaded model of that name; the newest of several versions where none is given.

        Raises:
            NotFound: `unknown_model`.
        """
        found = [model for model in self.models if model.name == name and version in (None, model.version)]
        if not found:
            raise NotFound("No such model is loaded; GET /v1/models lists them.", code="unknown_model")
        return max(found, key=lambda model: model.version)

    def knows_item(self, item_id: str) -> bool:
        """Whether any loaded model has the item."""
        return any(item_id in model.artefact.index_of for model in self.models)


def load_registry(
    settings: Settings,
    progress: Callable[[str, int, int], None] = lambda name, done, of: None,
    *,
    scenarios: ScenariosFile | None = None,
    open_only: bool = False,
) -> Registry:
    """Every scenario's artefacts, opened, checked and warmed up; one that several scenarios share is loaded once.

    Args:
        progress: told (artefact, artefacts done, artefacts in all) before each load and at the end.
        scenarios: from `read_scenarios`; by default read now.
        open_only: the models run in another process; here are their catalogues alone.

    Raises:
        SettingsError: the scenarios file is missing or wrong, or there is nothing to serve.
        ArtefactRefused: with the reasons of every artefact that failed.
    """
    file = scenarios or read_scenarios(settings)
    paths = {name: resolve(settings.artefacts, entry.retriever).resolve() for name, entry in file.scenario.items()}

    rankers = {
        name: resolve(settings.artefacts, entry.ranker).resolve()
        for name, entry in file.scenario.items()
        if entry.ranker is not None
    }
    models: dict[Path, ServedModel] = {}
    loaded_rankers: dict[Path, ServedRanker] = {}
    refusals: list[ArtefactRefused] = []
    wanted = sorted({*paths.values(), *rankers.values()})
    for done, path in enumerate(wanted):
        progress(f"{path.parent.name}@{path.name}", done, len(wanted))
        started = time.monotonic()
        try:
            if path in rankers.values():
                loaded_rankers[path] = (
                    ServedRanker(open_ranker(path), load_s=time.monotonic() - started)
                    if open_only
                    else load_ranker(path, intra_op_threads=settings.intra_op_threads, device=settings.device)
                )
                continue
            loaded = (
                open_artefact(path)
                if open_only
                else load(
                    path,
                    intra_op_threads=settings.intra_op_threads,
                    device=settings.device,
                    top_k=settings.top_k,
                    scan_threads=scan_threads(settings),
                )
            )
        except ArtefactRefused as refusal:
            refusals.append(refusal)
        else:
            models[path] = ServedModel(loaded, load_s=time.monotonic() - started)
    progress("", len(wanted), len(wanted))
    if refusals:
        raise refusals[0] if len(refusals) == 1 else _all_of(refusals)
    where = scenarios_path(settings)
    return Registry(
        (
            _scenario(
                name,
                entry,
                models[paths[name]],
                settings,
                where,
                _choice(name, entry, models[paths[name]], loaded_rankers[rankers[name]], where)
                if name in rankers
                else None,
            )
            for name, entry in file.scenario.items()
        ),
        file.default,
    )


def _choice(name: str, entry: ScenarioEntry, model: ServedModel, ranker: ServedRanker, where: Path) -> RankerChoice:
    own = ranker.artefact.scenario_index
    wanted = entry.ranker_scenario or name
    if wanted not in own:
        key = "ranker" if entry.ranker_scenario is None else "ranker_scenario"
        raise SettingsError(
            f"{where}: scenario.{name}.{key}: {ranker.label} knows no scenario {wanted!r}, "
            f"expected ranker_scenario to be one of {', '.join(own)}"
        )
    return RankerChoice(ranker, own[wanted], entry.candidates, ranker.index_map(model.artefact))


def _scenario(
    name: str, entry: ScenarioEntry, model: ServedModel, settings: Settings, where: Path, ranker: RankerChoice | None
) -> Scenario:
    known = sorted({category for category in model.artefact.categories if category})
    for category in entry.categories or ():
        if not any(is_within(each, (category,)) for each in known):
            some = ", ".join(map(repr, known[:5])) + (f" and {len(known) - 5} more" if len(known) > 5 else "")
            raise SettingsError(
                f"{where}: scenario.{name}.categories: no item of {model.label} is in {category!r}, "
                f"expected one of its categories or what one begins with, {some or 'but it has none'}"
            )
    categories = tuple(entry.categories or ())
    model.outside(categories)  # found once, here: a first request should not go through the whole catalogue
    evaluation = model.manifest.evaluation
    # The policy under which the model was measured; without a measurement, what shops expect.
    measured: Literal["exclude", "allow"] = "exclude" if evaluation is None or evaluation.seen_filtered else "allow"
    return Scenario(
        name=name,
        model=model,
        count=entry.count,
        deadline_ms=entry.deadline_ms or settings.deadline_ms,
        seen=entry.seen or measured,
        ranker=ranker,
        categories=categories,
    )


def _all_of(refusals: Sequence[ArtefactRefused]) -> ArtefactRefused:
    names = ", ".join(refusal.artefact for refusal in refusals)
    return ArtefactRefused(names, [f"{each.artefact}: {reason}" for each in refusals for reason in each.reasons])
