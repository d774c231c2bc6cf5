"""The service's log: one JSON line per request on stderr, coloured text on a terminal; never a raw user id."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import secrets
import sys
import traceback
from typing import Any, BinaryIO

import orjson
import structlog
from structlog.typing import FilteringBoundLogger

from service.errors import AfterglowError
from service.settings import Settings

Logger = FilteringBoundLogger

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def make_logger(settings: Settings, stream: BinaryIO | None = None) -> Logger:
    """A logger that writes lines to `stream` (stderr by default) and leaves everybody else's logging alone."""
    logger: Logger = structlog.wrap_logger(**_parts(settings, stream or sys.stderr.buffer)).bind()
    return logger


def take_over_logging(settings: Settings) -> Logger:
    """A logger on stderr through which everything else in the process logs too: one format, one stream.

    For the command; of the libraries, warnings and errors are kept.
    """
    logger = make_logger(settings)
    parts = _parts(settings, sys.stderr.buffer)
    structlog.configure(
        processors=parts["processors"],
        wrapper_class=parts["wrapper_class"],
        logger_factory=lambda *_names: parts["logger"],
        cache_logger_on_first_use=True,
    )
    library = logging.getLogger()
    library.handlers = [_Forward(logger)]
    library.setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return logger


def describe(error: BaseException) -> dict[str, Any]:
    """What a log line may say of an unexpected error: kind and place, and the message of our own errors.

    Foreign messages are left out: they quote the value they choked on, which may be a user's id.
    """
    frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    fields: dict[str, Any] = {"error": type(error).__name__, "frames": frames[-12:]}
    if isinstance(error, AfterglowError):
        fields["message"] = str(error)
    return fields


def new_id() -> str:
    """32 hexadecimal digits that no other request has. Nobody needs to be unable to guess them."""
    return f"{random.getrandbits(128):032x}"


class Pseudonyms:
    """Salted hashes that stand for ids in the log: equal ids, equal hashes, and no way back without the salt."""

    def __init__(self, settings: Settings) -> None:
        salt = settings.log_salt.get_secret_value().encode() if settings.log_salt else secrets.token_bytes(32)
        self._key = hashlib.blake2b(salt, digest_size=32).digest()

    def of(self, identifier: str | None) -> str | None:
        if identifier is None:
            return None
        return hashlib.blake2b(identifier.encode(), key=self._key, digest_size=8).hexdigest()


class LineWriter:
    """Lines to a stream, whole and in order; those of one tick of the event loop in one write.

    A write lets go of the interpreter lock, and under load another thread takes it: one line a request would hand the
    event loop's time over thousands of times a second. Outside an event loop, and where the stream is not a file, a
    line is written at once.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lines: list[bytes] = []
        try:
            stream.fileno()
        except OSError:
            self._gathers = False
        else:
            self._gathers = True

    def msg(self, message: bytes) -> None:
        self._lines.append(message + b"\n")
        try:
            loop = asyncio.get_running_loop() if self._gathers else None
        except RuntimeError:
            loop = None
        if loop is None:
            self.flush()
        elif len(self._lines) == 1:
            loop.call_soon(self.flush)

    debug = info = warn = warning = error = err = critical = fatal = failure = log = exception = msg

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            self._stream.write(b"".join(lines))
            self._stream.flush()


class _Forward(logging.Handler):
    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        fields = describe(record.exc_info[1]) if record.exc_info and record.exc_info[1] else {}
        say = self._logger.error if record.levelno >= logging.ERROR else self._logger.warning
        say("library", library=record.name, text=record.getMessage(), **fields)


def _parts(settings: Settings, stream: BinaryIO) -> dict[str, Any]:
    on_terminal = stream.isatty()
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
    ]
    if settings.log_format == "console" or (settings.log_format == "auto" and on_terminal):
        renderer = structlog.dev.ConsoleRenderer(colors=on_terminal, timestamp_key="ts")
        processors.append(lambda logger, name, event: renderer(logger, name, event).encode())
    else:
        processors.append(structlog.processors.JSONRenderer(serializer=_as_json))
    return {
        "logger": LineWriter(stream),
        "processors": processors,
        "wrapper_class": structlog.make_filtering_bound_logger(_LEVELS[settings.log_level]),
    }


def _as_json(event: Any, **_options: Any) -> bytes:
    return orjson.dumps(event, default=str)
