from __future__ import annotations

import socket
from typing import Any

import pytest
from sockets import needs_arrivals

from service.api.arrival import no_wait, wait_of


class Transport:
    """As much of a transport as is asked."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock

    def get_extra_info(self, name: str) -> Any:
        return self.sock if name == "socket" else None


class Told:
    """A TCP socket of which the system says how many milliseconds ago its last bytes came."""

    family = socket.AF_INET

    def __init__(self, milliseconds: int) -> None:
        self.milliseconds = milliseconds

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO)
        return (bytes(52) + self.milliseconds.to_bytes(4, "little") + bytes(48))[:size]


@needs_arrivals
@pytest.mark.parametrize(("told", "at_least"), [(0, 0.0), (4, 0.0), (8, 0.004), (120, 0.116)])
def test_what_the_system_says_may_be_a_tick_too_long(told: int, at_least: float) -> None:
    assert wait_of(Transport(Told(told)))() == at_least  # type: ignore[arg-type]


@needs_arrivals
def test_a_socket_that_was_closed_meanwhile_has_waited_for_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
    wait_s = wait_of(Transport(client))  # type: ignore[arg-type]
    client.close()
    assert wait_s() == 0.0


def test_nobody_can_tell_of_a_unix_socket_or_of_none() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert wait_of(Transport(one)) is no_wait  # type: ignore[arg-type]
    assert wait_of(Transport(None)) is no_wait  # type: ignore[arg-type]
    assert no_wait() == 0.0
