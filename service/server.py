"""Uvicorn with an orderly end: not ready, a while of grace, no new connections, the rest finished."""

from __future__ import annotations

import contextlib
import gc
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, cast

import pyarrow
import uvicorn

from service.app import Application
from service.errors import SettingsError
from service.service import Readiness
from service.settings import Settings

# New objects in use until the garbage collector looks for cycles: those of some hundred requests.
_COLLECT_AFTER = 20_000


def listen(settings: Settings) -> socket.socket:
    """The socket to serve on. Taken before anything slow, so that a busy port is known at once.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    try:
        listener = socket.create_server((settings.host, settings.port), family=_family(settings), backlog=2048)
    except OSError as error:
        raise _cannot_listen(settings, settings.port, error) from None
    return _prompt(listener)


def reserve(settings: Settings) -> socket.socket:
    """The port, held for processes that `join` it. Not listened on: no connection ever comes here.

    Raises:
        SettingsError: the address cannot be listened on, or somebody does already.
    """
    # Two programs of one user could share the port without a word; this finds the other one.
    with listen(settings) as listener:
        port = listener.getsockname()[1]
    return join(settings, port)


def join(settings: Settings, port: int) -> socket.socket:
    """One process's own socket on a port that several share; the kernel spreads connections over those that listen.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    own = socket.socket(_family(settings), socket.SOCK_STREAM)
    try:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        own.bind((settings.host, port))
    except OSError as error:
        own.close()
        raise _cannot_listen(settings, port, error) from None
    return _prompt(own)


def _family(settings: Settings) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in settings.host else socket.AF_INET


def _prompt(listener: socket.socket) -> socket.socket:
    """Accepted connections inherit it: without, a keep-alive connection waits 40 ms for each answer after the first."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _cannot_listen(settings: Settings, port: int, error: OSError) -> SettingsError:
    return SettingsError(f"cannot listen on {settings.host} port {port}: {error.strerror}")


def settle() -> None:
    """Tells the garbage collector that everything imported and loaded so far stays for good.

    Otherwise each full collection walks through all of it and stops the event loop for 30 to 40 ms. Requests leave no
    cycles: looking for some whenever 700 more objects are in use, as a dozen requests in flight have, finds nothing,
    and was a twentieth of the processor time in a profile. What reading a catalogue left in Arrow's pool goes back to
    the system: 45 MB of each process at a million items.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])
    pyarrow.default_memory_pool().release_unused()


class DrainingServer(uvicorn.Server):
    """Stops in two steps, so that a load balancer has time to look elsewhere.

    SIGTERM: /readyz answers 503 at once, everything else goes on for `drain_linger_s`; then the port closes and
    requests in flight get `drain_timeout_s`. SIGINT skips the waiting; a second one cuts what is still open.
    """

    def __init__(self, app: Application, settings: Settings, readiness: Readiness) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=cast(Any, app.connection),  # any callable will do
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                # The address of the caller is used nowhere.
                proxy_headers=False,
                timeout_keep_alive=settings.keep_alive_s,
                timeout_graceful_shutdown=settings.drain_timeout_s,
            )
        )
        self.stopped_by: signal.Signals | None = None
        self._readiness = readiness
        self._linger_s = settings.drain_linger_s
        self._close_at: float | None = None

    def stop(self, linger_s: float = 0.0) -> None:
        """Asks for the end; callable from any thread and from a signal handler."""
        self._readiness.draining = True
        close_at = time.monotonic() + linger_s
        self._close_at = close_at if self._close_at is None else min(close_at, self._close_at)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.stopped_by is not None and sig == signal.SIGINT:
            self.should_exit = self.force_exit = True
            return
        self.stopped_by = self.stopped_by or signal.Signals(sig)
        self.stop(self._linger_s if sig == signal.SIGTERM else 0.0)

    async def on_tick(self, counter: int) -> bool:
        if self._close_at is not None and time.monotonic() >= self._close_at:
            self.should_exit = True
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles signals while serving and, unlike uvicorn, raises none of them again: the command exits in order."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)
