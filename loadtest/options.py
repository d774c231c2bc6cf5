"""Options that several commands share, in groups, and what they make: the requests of a run.

A command takes a whole group as one parameter; `flat` spreads the groups' fields out as options of their own.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import secrets
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from loadtest.catalogue import discover_item_ids
from loadtest.client import Client
from loadtest.errors import InputError
from loadtest.ids import read_item_ids
from loadtest.open_loop import Arrivals, OpenLoop
from loadtest.traffic import Call, State, Traffic, interleave
from loadtest.workload import DatasetWorkload, PowerLaw, PowerLawWorkload, Workload

DEFAULT_HOST = "http://127.0.0.1:8000"

Host = Annotated[str, typer.Option(help="Base URL of the running service.")]
Scenario = Annotated[str | None, typer.Option(help="Scenario to ask for. Without: the service's default.")]


@dataclass(frozen=True)
class Ask:
    """What is asked for."""

    items: Annotated[
        Path | None,
        typer.Option(help="Item ids: text file, items.parquet or a folder with one. Without: asked of the service."),
    ] = None
    scenario: Scenario = None
    count: Annotated[int, typer.Option(help="Items to ask for.")] = 10
    event_type: Annotated[
        str | None, typer.Option(help="Type of the events. Without: the first one the scenario's model counts.")
    ] = None
    seed: Annotated[int, typer.Option(help="Seed of sessions and arrivals.")] = 7

    async def item_ids(self, client: Client) -> list[str]:
        if self.items is not None:
            return read_item_ids(self.items)
        return await discover_item_ids(client, scenario=self.scenario)

    def counted_event(self, service: dict[str, Any]) -> str:
        """The event type to post; `service` is what `describe_service` found."""
        return self.event_type or _counted_event(service["models"], self.scenario) or "view"


@dataclass(frozen=True)
class Sessions:
    """Which sessions are walked, and where their history lives."""

    state: Annotated[
        State, typer.Option(help="stored: events are posted and read back; request: the history is in the request.")
    ] = "stored"
    dataset: Annotated[
        Path | None, typer.Option(help="Walk the held-out ends of a dataset folder, not synthetic sessions.")
    ] = None
    held_out: Annotated[
        int, typer.Option(help="Last events of a dataset user that make the visit, where the set has no sessions.")
    ] = 5
    length_exponent: Annotated[float, typer.Option(help="Power law of the session length.")] = PowerLaw.length_exponent
    popularity_exponent: Annotated[float, typer.Option(help="Power law of item popularity.")] = (
        PowerLaw.popularity_exponent
    )
    known_share: Annotated[float, typer.Option(min=0, max=1, help="Share of the sessions that carry a user_id.")] = (
        PowerLaw.known_share
    )
    n_users: Annotated[
        int, typer.Option(min=0, help="Users behind the known sessions; 0: every session has its own.")
    ] = PowerLaw.n_users

    def law(self) -> PowerLaw:
        return PowerLaw(
            self.length_exponent, self.popularity_exponent, known_share=self.known_share, n_users=self.n_users
        )

    async def calls(
        self, client: Client, ask: Ask, service: dict[str, Any], *, name: str, n_active: int
    ) -> tuple[Iterator[Call], dict[str, Any]]:
        """The endless requests of a run, and their description for its result; `name` starts its users' ids."""
        if ask.items is not None and self.dataset is not None:
            raise InputError("give either --items or --dataset, not both")
        run_id = f"{name}-{secrets.token_hex(4)}"
        workload: Workload
        if self.dataset is not None:
            workload = DatasetWorkload(self.dataset, held_out=self.held_out, seed=ask.seed, run_id=run_id)
        else:
            workload = PowerLawWorkload(await ask.item_ids(client), self.law(), seed=ask.seed, run_id=run_id)
        traffic = Traffic(self.state, ask.scenario, ask.count, ask.counted_event(service))
        calls = interleave(traffic, workload.sessions(), n_active=n_active, seed=ask.seed)
        return calls, {"workload": workload.describe(), "traffic": traffic.describe(), "run_id": run_id}


@dataclass(frozen=True)
class Pace:
    """How requests are sent."""

    duration_s: Annotated[float, typer.Option(help="Length of a run, or of one step.")] = 30.0
    warmup_s: Annotated[float, typer.Option(help="First seconds of it, sent but not judged.")] = 2.0
    arrivals: Annotated[Arrivals, typer.Option(help="Times between two requests.")] = "poisson"
    budget_ms: Annotated[float, typer.Option(help="Deadline sent with each request, and the limit for goodput.")] = 100
    timeout_s: Annotated[float, typer.Option(help="After it a request counts as an error, sent or not.")] = 5.0
    max_connections: Annotated[
        int, typer.Option(min=1, help="Most requests in flight; the others wait, and that time counts.")
    ] = 256
    active_sessions: Annotated[int, typer.Option(min=1, help="Sessions that run side by side.")] = 200

    def plan(self, rate_per_s: float, seed: int) -> OpenLoop:
        return OpenLoop(rate_per_s, self.duration_s, self.warmup_s, self.arrivals, seed, self.budget_ms, self.timeout_s)

    def describe(self) -> dict[str, Any]:
        return {"max_connections": self.max_connections, "active_sessions": self.active_sessions}


def flat(command: Callable[..., None]) -> Callable[..., None]:
    """The command with every parameter whose type is a group replaced by the group's fields."""
    groups: dict[str, Any] = {
        name: kind for name, kind in typing.get_type_hints(command).items() if dataclasses.is_dataclass(kind)
    }
    hints = typing.get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        of_group = typing.get_type_hints(groups[name], include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=of_group[field.name]
            )
            for field in dataclasses.fields(groups[name])
        ]

    @functools.wraps(command)
    def spread(**given: Any) -> None:
        made = {
            name: group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})
            for name, group in groups.items()
        }
        command(**given, **made)

    spread.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spread.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return spread


def _counted_event(models: dict[str, Any] | None, scenario: str | None) -> str | None:
    """The first event type that the scenario's model counts, from the reply of /v1/models; None where it is silent."""
    if not models:
        return None
    for entry in models["scenarios"]:
        if entry["name"] == scenario or (scenario is None and entry["default"]):
            for model in models["models"]:
                if (model["name"], model["version"]) == (entry["model"]["name"], entry["model"]["version"]):
                    return str(model["history_events"][0])
    return None
