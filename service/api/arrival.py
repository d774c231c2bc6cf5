"""How long a request has lain in the kernel before it was read."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

# Linux counts in ticks of its timer: what it says may be this much too long. On most systems a tick is as long as this.
_TICK_MS = 4
# struct tcp_info of linux/tcp.h, up to tcpi_last_data_recv: milliseconds since the last bytes of data came.
_LAST_DATA_RECV = struct.Struct("52xI")


def no_wait() -> float:
    """Where nobody can tell."""
    return 0.0


def wait_of(transport: asyncio.BaseTransport) -> Callable[[], float]:
    """Tells how many seconds ago the last bytes of a connection came, at least; 0 where the system does not say.

    A busy event loop reads a request long after it came, and its caller's clock has run all that time.
    """
    sock = transport.get_extra_info("socket")
    if not hasattr(socket, "TCP_INFO") or sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return no_wait
    ask = sock.getsockopt

    def wait_s() -> float:
        try:
            told = ask(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECV.size)
        except OSError:  # closed meanwhile
            return 0.0
        waited_ms: int = _LAST_DATA_RECV.unpack(told)[0]
        return max(0, waited_ms - _TICK_MS) / 1000

    return wait_s
