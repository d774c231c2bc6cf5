"""A running stand-in for the service, on a real socket, in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from http_stand_in import FakeService


@pytest.fixture
def fake_service() -> Iterator[FakeService]:
    service = FakeService()
    listener = socket.create_server(("127.0.0.1", 0))
    service.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(service, lifespan="off", ws="none", log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield service
    server.should_exit = True
    thread.join()
    listener.close()
