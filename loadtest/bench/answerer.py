"""The cheapest server there is in Python: one epoll loop that answers every packet with the same bytes.

It understands nothing of HTTP; a generator that sends one request at a time on a connection sends one packet each.
"""

from __future__ import annotations

import select
import socket
import sys

_REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def serve(port: int) -> None:
    """Answers until it is killed."""
    epoll = select.epoll()
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        epoll.register(listener.fileno(), select.EPOLLIN)
        open_ones: dict[int, socket.socket] = {}
        while True:
            for fd, _ in epoll.poll(-1, 1024):
                if fd == listener.fileno():
                    connection, _address = listener.accept()
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    open_ones[connection.fileno()] = connection
                    epoll.register(connection.fileno(), select.EPOLLIN)
                elif _is_gone(open_ones[fd]):
                    epoll.unregister(fd)
                    open_ones.pop(fd).close()


def _is_gone(connection: socket.socket) -> bool:
    try:
        if not connection.recv(65_536):
            return True
        connection.send(_REPLY)
    except OSError:
        return True
    return False


if __name__ == "__main__":
    try:
        serve(int(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
