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

import uvicorn
from fastapi import FastAPI

from service.errors import SettingsError
from service.service import Readiness
from service.settings import Settings


def listen(settings: Settings) -> socket.socket:
    """The socket to serve on. Taken before anything slow, so that a busy port is known at once.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        raise SettingsError(f"cannot listen on {settings.host} port {settings.port}: {error.strerror}") from None


def settle() -> None:
    """Tells the garbage collector that everything imported and loaded so far stays for good.

    Otherwise each full collection walks through all of it and stops the event loop for 30 to 40 ms.
    """
    gc.collect()
    gc.freeze()


class DrainingServer(uvicorn.Server):
    """Stops in two steps, so that a load balancer has time to look elsewhere.

    SIGTERM: /readyz answers 503 at once, everything else goes on for `drain_linger_s`; then the port closes and
    requests in flight get `drain_timeout_s`. SIGINT skips the waiting; a second one cuts what is still open.
    """

    def __init__(self, app: FastAPI, settings: Settings, readiness: Readiness) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http="httptools",
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
