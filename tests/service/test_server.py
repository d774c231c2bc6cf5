"""The server that the command runs, in a thread of this process so that its sockets can be looked at."""

from __future__ import annotations

import gc
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from napkin import NOW, ManualClock

from service.app import create_app
from service.errors import SettingsError
from service.registry import Registry
from service.server import DrainingServer, join, listen, reserve, settle
from service.service import Service
from service.settings import Settings
from service.state.memory import MemoryStore

LIMIT_S = 30.0


def until(holds: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < ends_at
        time.sleep(0.005)


def own_socket(settings: Settings) -> socket.socket:
    """As one of several processes has it."""
    with reserve(settings) as held:
        return join(settings, held.getsockname()[1])


class Served:
    def __init__(self, registry: Registry, make_socket: Callable[[Settings], socket.socket] = listen) -> None:
        self.settings = Settings(port=0, log_level="error")
        self.service = Service(self.settings, MemoryStore(ManualClock(NOW)), lambda: registry)
        self.server = DrainingServer(create_app(self.service), self.settings, self.service.readiness)
        self.listener = make_socket(self.settings)
        self.clients = ExitStack()
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.listener.getsockname()[:2]
        return host, port

    def connect(self) -> http.client.HTTPConnection:
        """A connection that is closed at the end of the test."""
        return self.clients.enter_context(closing(http.client.HTTPConnection(*self.address, timeout=LIMIT_S)))


@pytest.fixture
def served(registry: Registry, request: pytest.FixtureRequest) -> Iterator[Served]:
    running = Served(registry, getattr(request, "param", listen))
    running.thread.start()
    until(lambda: running.service.readiness.loaded)
    with running.clients:
        yield running
    running.server.stop()
    running.thread.join(LIMIT_S)
    assert not running.thread.is_alive()


def get(connection: http.client.HTTPConnection, path: str) -> int:
    connection.request("GET", path)
    response = connection.getresponse()
    response.read()
    return response.status


@pytest.mark.parametrize("served", [listen, own_socket], ids=["alone", "one of several"], indirect=True)
def test_accepted_connections_send_small_answers_at_once(served: Served) -> None:
    """Without TCP_NODELAY a keep-alive connection waits 40 ms for each answer after the first."""
    with socket.create_connection(served.address, timeout=LIMIT_S):
        until(lambda: len(served.server.server_state.connections) == 1)
        (protocol,) = served.server.server_state.connections
        accepted = protocol.transport.get_extra_info("socket")

        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert type(accepted).__module__.startswith("uvloop")


def test_an_idle_connection_outlives_a_load_balancers_minute(served: Served) -> None:
    assert served.server.config.timeout_keep_alive == 75


def test_a_stop_finishes_what_is_in_flight(served: Served) -> None:
    connection = served.connect()
    connection.putrequest("POST", "/v1/recommend")
    connection.putheader("Content-Length", "2")
    connection.endheaders()
    until(lambda: served.service.metrics.registry.get_sample_value("afterglow_inflight") == 1)

    served.server.stop()
    until(lambda: served.server.should_exit)
    connection.send(b"{}")

    assert connection.getresponse().status == 200
    served.thread.join(LIMIT_S)
    assert not served.thread.is_alive()


def test_a_stop_with_grace_answers_until_the_grace_is_over(served: Served) -> None:
    connection = served.connect()
    assert get(connection, "/readyz") == 200

    served.server.stop(linger_s=3_600)

    assert (get(connection, "/readyz"), get(connection, "/livez")) == (503, 200)
    served.server.stop()  # an impatient second one
    served.thread.join(LIMIT_S)
    assert not served.thread.is_alive()


def test_after_settling_the_garbage_collector_leaves_what_is_loaded_alone() -> None:
    try:
        settle()
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()


def test_an_address_of_somebody_else_cannot_be_listened_on() -> None:
    with pytest.raises(SettingsError, match=r"cannot listen on 192\.0\.2\.1 port 8000"):
        listen(Settings(host="192.0.2.1"))


def test_processes_that_join_a_port_share_it_and_one_that_goes_leaves_the_rest() -> None:
    settings = Settings(port=0)
    with reserve(settings) as held:
        port = held.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):  # held, and answered by nobody
            socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S).close()
        with join(settings, port) as first, join(settings, port) as second:
            first.listen()
            second.listen()
            first.close()
            for _ in range(20):
                socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S).close()
            accepted, _ = second.accept()
            with accepted:  # whatever loop serves it
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


@pytest.mark.parametrize("shares", [0, 1], ids=["alone", "sharing"])
def test_a_port_that_somebody_listens_on_cannot_be_reserved(shares: int) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1 port {port}"):
            reserve(Settings(port=port))
