"""The napkin catalogue as artefacts, and a service started on it."""

from __future__ import annotations

import io
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import Command, Serve
from napkin import COUNTS, ITEMS, NOW, TABLE, FragileStore, ManualClock, Running, Start

from export.baselines import write_popularity, write_topk_only
from service.app import create_app
from service.inference.loader import load
from service.logs import make_logger
from service.registry import Registry, Scenario
from service.served_model import ServedModel
from service.service import Service
from service.settings import Settings
from service.state.memory import MemoryStore


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `napkin` (topk_only), `counts` (popularity) and `plain` (topk_only, no training counts)."""
    root = tmp_path_factory.mktemp("artefacts")
    available = [item != "g" for item in ITEMS]
    write_topk_only(root, item_ids=ITEMS, counts=COUNTS, available=available, table=TABLE, name="napkin")
    write_popularity(root, item_ids=ITEMS, counts=COUNTS, available=available, name="counts")
    write_topk_only(root, item_ids=ITEMS, available=available, table=TABLE, name="plain")
    return root


@pytest.fixture(scope="session")
def models(artefacts: Path) -> dict[str, ServedModel]:
    folders = {name: next((artefacts / name).iterdir()) for name in ("napkin", "counts", "plain")}
    return {name: ServedModel(load(folder, intra_op_threads=1, device="cpu")) for name, folder in folders.items()}


@pytest.fixture(scope="session")
def registry(models: dict[str, ServedModel]) -> Registry:
    """Scenario `home` (default) and one per further model; `again` shows what was seen."""

    def scenario(name: str, model: str, seen: Any = "exclude") -> Scenario:
        return Scenario(name, models[model], count=3, deadline_ms=100, seen=seen)

    return Registry(
        [
            scenario("home", "napkin"),
            scenario("again", "napkin", "allow"),
            scenario("best", "counts"),
            scenario("plain", "plain"),
        ],
        default="home",
    )


@pytest.fixture
def start(registry: Registry) -> Start:
    """Starts a service: `async with start(setting=value, ...) as running`."""

    @asynccontextmanager
    async def run(load_registry: Callable[[], Registry] | None = None, **settings: Any) -> AsyncIterator[Running]:
        clock, wall, log = ManualClock(), ManualClock(NOW), io.BytesIO()
        configured = Settings(log_format="json", **settings)
        store = FragileStore(MemoryStore(wall))
        service = Service(
            configured,
            store,
            load_registry or (lambda: registry),
            state_name="memory",
            log=make_logger(configured, log),
            clock=clock,
            wall_clock=wall,
        )
        app = create_app(service)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            if load_registry is None:
                await service.until_loaded()
            yield Running(service, client, store, clock, wall, log)

    return run


@pytest.fixture
async def running(start: Start) -> AsyncIterator[Running]:
    async with start() as started:
        yield started


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    commands: list[Command] = []

    def start(*arguments: str, **environment: str) -> Command:
        commands.append(Command(tmp_path / f"run{len(commands)}", *arguments, **environment))
        return commands[-1]

    yield start
    for command in commands:
        if command.process.poll() is None:
            command.process.kill()
            command.wait()


@pytest.fixture(scope="module")
def napkin(artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one artefact."""
    root = tmp_path_factory.mktemp("one")
    shutil.copytree(artefacts / "napkin", root / "napkin")
    return root
