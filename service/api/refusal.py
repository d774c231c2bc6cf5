"""Replies of one error, made beforehand but for their request_id: what an overloaded event loop can still say."""

from __future__ import annotations

from service.api.exchange import problem_reply
from service.errors import RequestError
from service.logs import new_id

_MARK = "0" * 32
_HEAD_END = b"\r\n\r\n"
_PLAIN = b"\r\nconnection: keep-alive\r\n"


class Refusal:
    """One error, told to many."""

    def __init__(self, error: RequestError) -> None:
        further = b"x-request-id: %s\r\n\r\n" % _MARK.encode()
        self._parts = problem_reply(error, _MARK, further).split(_MARK.encode())

    def reply(self) -> bytes:
        """A whole reply that keeps the connection."""
        return new_id().encode().join(self._parts)


def is_whole_request(data: bytes, starts: tuple[bytes, ...]) -> bool:
    """Whether the bytes are exactly one request that begins with one of `starts` and keeps its connection.

    Judged without a parser; False also where that would be needed to tell.
    """
    if not data.startswith(starts):
        return False
    head_end = data.find(_HEAD_END)
    if head_end < 0:
        return False
    head = data[: head_end + 2].lower()
    if b"\r\nexpect:" in head or (b"\r\nconnection:" in head and _PLAIN not in head):
        return False
    at = head.find(b"\r\ncontent-length: ")
    if at < 0 or b"\r\ntransfer-encoding:" in head:
        return False
    length = head[at + 18 : head.index(b"\r\n", at + 18)]
    return length.isdigit() and len(length) < 18 and head_end + 4 + int(length) == len(data)
