"""The line between the supervisor and one of its processes: JSON a line over a socket pair.

Down goes one `Orders`, up come `Told`s. The line is also how each knows that the other lives: the kernel closes it with
its holder, however that one ended.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, SecretStr

from service.scenarios import ScenariosFile
from service.settings import Settings

Role = Literal["worker", "engine"]


class Orders(BaseModel):
    """What a process must know to begin.

    `scenarios` names versions, so that a process that is started again later loads what the others have.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    role: Role
    settings: dict[str, Any]
    port: int
    redis_url: str
    scenarios: ScenariosFile
    engine_socket: Path | None
    metrics_folder: Path

    def read_settings(self) -> Settings:
        """The supervisor's settings: every field is given, so the environment has no say."""
        return Settings(**self.settings)


class Told(BaseModel):
    """What a process says: that it answers, and with what; or why it cannot begin; or that it is still alive."""

    model_config = ConfigDict(frozen=True)

    what: Literal["ready", "refused", "settings", "alive"]
    text: str


def plain(settings: Settings) -> dict[str, Any]:
    """Settings as JSON can say them, secrets included: for the line, which nobody else reads."""
    return {name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in settings}


def as_line(message: BaseModel) -> bytes:
    return orjson.dumps(message.model_dump(mode="json")) + b"\n"


_ALIVE = as_line(Told(what="alive", text=""))


class Line:
    """The process's end."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._stream = self._socket.makefile("rb")

    def receive(self) -> Orders:
        """The orders, once they have come.

        Raises:
            EOFError: the supervisor has gone.
        """
        line = self._stream.readline()
        if not line:
            raise EOFError
        return Orders.model_validate_json(line)

    def tell(self, what: Literal["ready", "refused", "settings"], text: str) -> None:
        """Says it; a supervisor that has gone does not mind."""
        try:
            self._socket.sendall(as_line(Told(what=what, text=text)))
        except OSError:
            return

    def beat(self) -> None:
        """Says that the process is alive; not where saying it would have to wait, or nobody listens."""
        with contextlib.suppress(OSError):
            self._socket.send(_ALIVE, socket.MSG_DONTWAIT)

    def when_cut(self, act: Callable[[], None]) -> None:
        """Calls `act`, in a thread of its own, once the supervisor has let go of the line or has died."""

        def listen() -> None:
            self._stream.read()
            act()

        threading.Thread(target=listen, name="line", daemon=True).start()
