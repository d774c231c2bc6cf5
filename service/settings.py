"""Every setting of the service, and the only place that reads environment variables.

A flag of the command wins over the environment (`AFTERGLOW_` + the field's name), which wins over the default here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import SettingsError

ENV_PREFIX = "AFTERGLOW_"


class Settings(BaseSettings):
    """How one process of the service runs. Immutable; passed down, never looked up."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    host: Annotated[str, Field(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535, description="port to listen on; 0 takes a free one")] = 8000
    artefacts: Annotated[Path, Field(description="folder that holds artefacts as name/version/")] = Path("artefacts")
    scenarios: Annotated[
        Path | None, Field(description="scenarios file; by default scenarios.toml beside the artefacts, if it is there")
    ] = None

    workers: Annotated[
        int, Field(ge=1, le=64, description="processes that answer HTTP, each with its own socket on the port")
    ] = 1
    engine_process: Annotated[
        bool, Field(description="models run in one process of their own, which the workers ask; else in each worker")
    ] = False

    redis: Annotated[
        SecretStr | None, Field(description="redis://, rediss:// or unix:// URL of the state store; none = embedded")
    ] = None
    embedded_redis: Annotated[bool, Field(description="start a Redis server of our own when no URL is given")] = True
    state_dir: Annotated[Path, Field(description="folder where the embedded Redis keeps its append-only file")] = Path(
        ".afterglow/redis"
    )
    state_dir_must_be_mounted: Annotated[
        bool,
        Field(description="refuse an embedded Redis whose state_dir is not a mount; the container image says true"),
    ] = False
    user_ttl_s: Annotated[float, Field(gt=0, description="seconds a user's history lives after its last event")] = (
        180 * 86_400
    )
    session_ttl_s: Annotated[float, Field(gt=0, description="seconds a session lives after its last event")] = 1_800
    state_timeout_ms: Annotated[float, Field(gt=0, description="milliseconds one read of the state may take")] = 50
    write_timeout_ms: Annotated[float, Field(gt=0, description="milliseconds one write of events may take")] = 500
    max_queued_events: Annotated[
        int, Field(ge=0, description="events kept in memory while the store is away; beyond it /v1/events answers 503")
    ] = 10_000
    event_max_age_s: Annotated[float, Field(gt=0, description="seconds an event's ts may lie in the past")] = (
        30 * 86_400
    )
    event_max_ahead_s: Annotated[float, Field(ge=0, description="seconds an event's ts may lie in the future")] = 300

    device: Annotated[Literal["auto", "cpu", "cuda"], Field(description="where models run; cuda never falls back")] = (
        "auto"
    )
    intra_op_threads: Annotated[int, Field(ge=1, description="threads of one model run")] = 1
    scan_threads: Annotated[
        int | None,
        Field(
            ge=1,
            description="threads of one scan of a catalogue above 200,000 items; none = the cores, divided by the "
            "processes that run models",
        ),
    ] = None
    top_k: Annotated[
        Literal["auto", "in-graph", "scan", "int8", "numpy", "approximate"],
        Field(description="how the best items are found; auto is exact and goes by the size of the catalogue"),
    ] = "auto"
    max_batch: Annotated[int, Field(ge=1, le=1024, description="most requests scored in one model run")] = 32
    max_waiting: Annotated[
        int, Field(ge=1, description="most requests waiting for the engine; beyond it: overloaded")
    ] = 1024
    deadline_ms: Annotated[
        int, Field(ge=1, description="milliseconds for a request, where neither its header nor its scenario says")
    ] = 100
    batch_deadline_ms: Annotated[int, Field(ge=1, description="milliseconds for a batch call without the header")] = (
        5_000
    )
    max_deadline_ms: Annotated[int, Field(ge=1, description="milliseconds: a longer budget is cut to this")] = 60_000
    cached_lists: Annotated[
        int, Field(ge=0, description="users and sessions whose last lists and looks are kept in memory, for outages")
    ] = 10_000

    max_body_bytes: Annotated[int, Field(ge=1_024, description="bytes of a request body, and of one NDJSON line")] = (
        256 * 1024
    )
    max_bulk_body_bytes: Annotated[int, Field(ge=1_024, description="bytes of a body of batch and events calls")] = (
        4 * 1024 * 1024
    )
    receive_timeout_s: Annotated[
        float, Field(gt=0, description="seconds a request may take to arrive once it has begun; then 408")
    ] = 10
    keep_alive_s: Annotated[int, Field(ge=1, description="seconds an idle connection stays open")] = 75
    drain_linger_s: Annotated[
        float, Field(ge=0, description="seconds between SIGTERM (/readyz says 503) and closing the port")
    ] = 5
    drain_timeout_s: Annotated[int, Field(ge=1, description="seconds that requests in flight get to finish")] = 25

    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="least level written")] = (
        "info"
    )
    log_format: Annotated[
        Literal["auto", "json", "console"], Field(description="auto = console on a terminal, JSON lines elsewhere")
    ] = "auto"
    log_salt: Annotated[
        SecretStr | None,
        Field(description="key of the user hashes in the log; by default random, so hashes change at each start"),
    ] = None


def load_settings(**flags: Any) -> Settings:
    """Settings from flags, environment and defaults. A flag that is None was not given.

    Raises:
        SettingsError: one line per setting that does not fit.
    """
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        lines = [
            f"setting {'.'.join(map(str, fault['loc']))} (flag or {ENV_PREFIX}{str(fault['loc'][0]).upper()}): "
            f"found {fault['input']!r}, {fault['msg'][0].lower()}{fault['msg'][1:]}"
            for fault in error.errors(include_url=False)
        ]
        raise SettingsError("\n".join(lines)) from None
