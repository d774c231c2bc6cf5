"""Result files: one JSON document per run, enough to draw its report and to repeat it."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

from loadtest.client import Client, NoReply
from loadtest.errors import InputError

SCHEMA_VERSION = 1
FOLDER_VARIABLES = ("AFTERGLOW_DATA", "AFTERGLOW_KNOWLEDGE", "AFTERGLOW_RUNS")
KINDS = ("open_loop", "capacity", "locust", "replay", "chaos")


@dataclass
class Result:
    """What every result says first: what ran, when, where, with which options, whether to the end."""

    kind: str
    options: dict[str, Any]
    service: dict[str, Any] = field(default_factory=dict)
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    program: str = "python -m loadtest"  # what the arguments of this process were given to
    interrupted: bool = False
    findings: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": self.kind,
            "command": f"{self.program} {shlex.join(sys.argv[1:])}",
            "started_at": self.started_at,
            "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "interrupted": self.interrupted,
            "machine": describe_machine(),
            "service": self.service,
            "options": self.options,
            **self.findings,
        }

    def write(self, path: Path) -> None:
        write_json(path, self.document())


def write_json(path: Path, document: dict[str, Any]) -> None:
    """`document` at `path`, complete or not at all; folders that a variable names stand there by that name."""
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY).decode()
    write_bytes(path, portable(text).encode() + b"\n")


def portable(text: str) -> str:
    """`text` as others can repeat it: data folders by their variable's name, files from the working directory."""
    for name in FOLDER_VARIABLES:
        if folder := os.environ.get(name):
            text = text.replace(folder.rstrip("/"), f"${name}")
    return text.replace(f"{Path.cwd()}/", "")


def write_bytes(path: Path, content: bytes) -> None:
    """`content` at `path`, complete or not at all; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_result(path: Path) -> dict[str, Any]:
    """A result document; InputError where the file is none."""
    try:
        document = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise InputError(f"{path}: not a result file: {error}") from error
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{path}: not a result file of schema version {SCHEMA_VERSION}")
    if document.get("kind") not in KINDS:
        raise InputError(f"{path}: kind is {document.get('kind')!r}; expected one of {', '.join(KINDS)}")
    return document


def describe_machine() -> dict[str, Any]:
    """The machine the generator ran on, which for a figure without a network is also the service's."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": model,
        "cores": cores,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "afterglow": version("afterglow"),
    }


async def describe_service(client: Client) -> dict[str, Any]:
    """Host and models of the service, as far as it tells."""
    try:
        reply = await client.get("/v1/models")
        models = reply.json() if reply.status == 200 else None
    except NoReply:
        models = None
    return {"host": client.url, "models": models}


async def read_process(client: Client) -> dict[str, float] | None:
    """CPU seconds and resident bytes of the service process from /metrics; None where it does not export them."""
    try:
        reply = await client.get("/metrics")
    except NoReply:
        return None
    found: dict[str, float] = {}
    for line in reply.body.decode(errors="replace").splitlines():
        for name in ("process_cpu_seconds_total", "process_resident_memory_bytes"):
            if line.startswith(name + " "):
                found[name] = float(line.split()[-1])
    return found if len(found) == 2 else None


def process_use(
    before: dict[str, float] | None, after: dict[str, float] | None, *, n_requests: int
) -> dict[str, float] | None:
    """CPU milliseconds per request and resident MB of the service between two `read_process`."""
    if before is None or after is None or n_requests == 0:
        return None
    cpu_s = after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]
    return {
        "cpu_ms_per_request": round(cpu_s * 1e3 / n_requests, 4),
        "resident_mb": round(after["process_resident_memory_bytes"] / 1e6, 1),
    }
