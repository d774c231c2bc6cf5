"""A local HTTP server that speaks the OpenAI protocol and misbehaves when told to."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from models.knowledge.endpoint import Clock

DIM = 4


@dataclass
class Reply:
    """What the server sends: a status, headers and bytes; `promised` bytes, when more are announced than sent."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    promised: int = 0


@dataclass
class Call:
    """What the server was sent."""

    path: str
    body: dict[str, Any]
    authorization: str | None


def chat(text: str, finish_reason: str = "stop", model: str = "m") -> Reply:
    message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    return Reply(body=json.dumps({"model": model, "choices": [message], "usage": usage}).encode())


def error(status: int, message: str = "no", code: str | None = None, **headers: str) -> Reply:
    body = json.dumps({"error": {"message": message, "code": code}}).encode()
    return Reply(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def truncated() -> Reply:
    """A complete HTTP response whose JSON ends in the middle."""
    whole = chat("a lamp")
    return Reply(body=whole.body[: len(whole.body) // 2])


def broken_off() -> Reply:
    """A connection that closes before the announced length."""
    whole = chat("a lamp")
    return Reply(body=whole.body[:20], promised=len(whole.body))


class FakeEndpoint:
    """Answers each call by the next of `script`, then by `usual`; a script entry may also be a function.

    `held` blocks every call while it is cleared, after counting it.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.script: list[Reply | Callable[[Call], Reply]] = []
        self.usual: Callable[[Call], Reply] = _usual
        self.held = threading.Event()
        self.held.set()
        self.hold_after: int | None = None  # block every call after this many
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def texts(self) -> list[Any]:
        """What was asked, call by call: the last message, or the inputs to embed."""
        return [call.body.get("input") or call.body["messages"][-1]["content"] for call in self.calls]

    def close(self) -> None:
        self.hold_after = None
        self.held.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def reply(self, call: Call) -> Reply:
        with self._lock:
            self.calls.append(call)
            number = len(self.calls)
            planned = self.script.pop(0) if self.script else self.usual
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        if self.hold_after is not None and number > self.hold_after:
            self.held.wait(30)
        try:
            return planned if isinstance(planned, Reply) else planned(call)
        finally:
            with self._lock:
                self._at_once -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                reply = endpoint.reply(Call(self.path, body, self.headers["authorization"]))
                try:
                    self.send_response(reply.status)
                    for name, value in reply.headers.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(reply.promised or len(reply.body)))
                    self.end_headers()
                    self.wfile.write(reply.body)
                    self.close_connection = bool(reply.promised)
                except OSError:
                    self.close_connection = True  # the client did not wait

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


class FakeClock:
    """A clock that only sleeping moves."""

    def __init__(self, start: float = 1_000_000.0) -> None:
        self.time = start
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds

    def clock(self) -> Clock:
        return Clock(sleep=self.sleep, now=lambda: self.time, jitter=lambda: 0.0)


def vector(text: str) -> list[float]:
    """Four numbers that stand for a text."""
    return [byte / 16 for byte in hashlib.sha256(text.encode()).digest()[:DIM]]


def embeddings(texts: list[str], tokens: int = 0) -> Reply:
    """Vectors of some texts, last one first: the protocol orders them by index."""
    rows = [{"index": index, "embedding": vector(text)} for index, text in enumerate(texts)]
    usage = {"prompt_tokens": tokens or 3 * len(texts), "total_tokens": tokens or 3 * len(texts)}
    return Reply(body=json.dumps({"model": "e", "data": rows[::-1], "usage": usage}).encode())


def _usual(call: Call) -> Reply:
    if "input" in call.body:
        texts = call.body["input"]
        return embeddings(texts if isinstance(texts, list) else [texts])
    return chat(f"a lamp for {call.body['messages'][-1]['content']}")
