"""The real application on a real socket, in a thread of the test."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest
from napkin import NOW, ManualClock

from service.app import create_app
from service.inference.engine import Operation
from service.logs import make_logger
from service.registry import Registry
from service.served_model import ServedModel
from service.server import DrainingServer, listen
from service.service import Service
from service.settings import Settings
from service.state.memory import MemoryStore

LIMIT_S = 30.0

# Where it is missing, budgets count from when a request was read.
needs_arrivals = pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="only Linux says when bytes came")


def until(holds: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < ends_at
        time.sleep(0.002)


class Served:
    def __init__(self, registry: Registry, **settings: object) -> None:
        self.settings = Settings(**{"port": 0, "log_level": "error", "deadline_ms": 60_000, **settings})
        self.log = io.BytesIO()
        # The clock here is the real one, and a full garbage collection of all that the tests hold takes 160 ms.
        scenarios = [replace(each, deadline_ms=self.settings.deadline_ms) for each in registry.scenarios.values()]
        patient = Registry(scenarios, registry.default)
        self.service = Service(
            self.settings,
            MemoryStore(ManualClock(NOW)),
            lambda: patient,
            log=make_logger(self.settings, self.log),
        )
        self.app = create_app(self.service)
        self.server = DrainingServer(self.app, self.settings, self.service.readiness)
        self.listener = listen(self.settings)
        self.clients = ExitStack()
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})

    def raw(self) -> socket.socket:
        return self.clients.enter_context(socket.create_connection(self.listener.getsockname()[:2], timeout=LIMIT_S))

    def connect(self) -> http.client.HTTPConnection:
        address = self.listener.getsockname()[:2]
        return self.clients.enter_context(closing(http.client.HTTPConnection(*address, timeout=LIMIT_S)))

    def metric(self, name: str, **labels: str) -> float:
        return self.service.metrics.registry.get_sample_value(f"afterglow_{name}", labels) or 0.0


def serving(registry: Registry) -> Iterator[Callable[..., Served]]:
    """For a fixture: a function that starts a service with the given settings."""
    started: list[Served] = []

    def start(**settings: object) -> Served:
        running = Served(registry, **settings)
        running.thread.start()
        until(lambda: running.service.readiness.loaded)
        started.append(running)
        return running

    yield start
    for running in started:
        running.clients.close()
        running.server.stop()
        running.thread.join(LIMIT_S)
        assert not running.thread.is_alive()


class HeldRuns:
    """`rows` of each run that has begun; none ends before `open`."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.opened = threading.Event()
        self.open = self.opened.set


def holding(models: dict[str, ServedModel], monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldRuns]:
    """For a fixture: the engine's runs, held."""
    gate = HeldRuns()
    opened, rows = gate.opened, gate.rows
    search = models["napkin"].search

    def held(operation: Operation, histories: object, k: int, excluded: object) -> object:
        if opened.is_set() or threading.current_thread().name != "engine":
            return search(operation, histories, k, excluded)
        rows.append(len(histories))
        assert opened.wait(LIMIT_S)
        return search(operation, histories, k, excluded)

    monkeypatch.setattr(models["napkin"], "search", held)
    yield gate
    opened.set()


def post(body: bytes, path: str = "/v1/recommend", *headers: bytes) -> bytes:
    lines = b"".join([header + b"\r\n" for header in headers])
    return b"POST %s HTTP/1.1\r\nHost: test\r\n%sContent-Length: %d\r\n\r\n%s" % (
        path.encode(),
        lines,
        len(body),
        body,
    )


def ask(*items: str, **more: object) -> bytes:
    return json.dumps({"history": [{"item_id": item} for item in items], **more}).encode()


def status_of(raw: bytes) -> int:
    return int(raw.split(b" ", 2)[1])
