from __future__ import annotations

import json
from typing import Any

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.refusal import Refusal, is_whole_request
from service.errors import crowded_loop

START = b"POST /v1/recommend HTTP/1.1\r\n"
STARTS = (START, b"POST /v1/other HTTP/1.1\r\n")


def request(*headers: bytes, body: bytes = b"{}", start: bytes = START) -> bytes:
    return start + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + body


def test_a_refusal_is_a_whole_reply_with_a_name_of_its_own_that_keeps_the_connection() -> None:
    replies = [Refusal(crowded_loop()).reply() for _ in range(2)]

    for reply in replies:
        head, _, body = reply.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        told = json.loads(body)
        assert lines[0] == b"http/1.1 503 service unavailable"
        assert {b"content-length: %d" % len(body), b"retry-after: 1"} <= set(lines)
        assert b"x-request-id: " + told["request_id"].encode() in lines
        assert told["code"] == "overloaded"
        assert b"connection: close" not in lines
    assert replies[0] != replies[1]


@pytest.mark.parametrize(
    ("data", "is_whole"),
    [
        (request(b"Content-Length: 2"), True),
        (request(b"host: a", b"CONTENT-LENGTH: 2", start=STARTS[1]), True),
        (request(b"content-length: 2", b"Connection: keep-alive"), True),
        (request(b"content-length: 2", b"connection: close"), False),
        (request(b"content-length: 2", b"connection: upgrade"), False),
        (request(b"content-length: 2", b"expect: 100-continue"), False),
        (request(b"content-length: 3"), False),
        (request(b"content-length: 1"), False),
        (request(b"content-length: 2")[:-1], False),
        (request(b"content-length: +2"), False),
        (request(b"content-length: " + b"9" * 40), False),
        (request(b"transfer-encoding: chunked", body=b"0\r\n\r\n"), False),
        (request(b"content-length: 2", b"transfer-encoding: chunked"), False),
        (request(b"content-length: 2", start=b"POST /v1/events HTTP/1.1\r\n"), False),
        (request(b"content-length: 2", start=b"POST /v1/recommend?a=b HTTP/1.1\r\n"), False),
        (request(b"content-length: 2", start=b"POST /v1/recommend HTTP/1.0\r\n"), False),
        (START, False),
        (b"", False),
    ],
)
def test_only_a_request_that_is_all_there_and_nothing_more_counts_as_one(data: bytes, is_whole: bool) -> None:
    assert is_whole_request(data, STARTS) is is_whole


class Parsed:
    """What httptools makes of bytes."""

    def __init__(self, data: bytes) -> None:
        self.n_complete = self.n_begun = 0
        self.keeps = False
        self._parser: Any = httptools.HttpRequestParser(self)
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.n_begun += 1

    def on_message_complete(self) -> None:
        self.n_complete += 1
        self.keeps = self._parser.should_keep_alive()


NAMES = st.sampled_from([b"host", b"Accept", b"x-content-length", b"X-Request-Id", b"content-type"])
VALUES = st.sampled_from([b"a", b"content-length: 7", b"keep-alive", b"0"])


@given(
    headers=st.lists(st.tuples(NAMES, VALUES), max_size=4),
    body=st.binary(max_size=30),
    keeps=st.sampled_from([b"", b"Connection: keep-alive"]),
    cut=st.integers(0, 3),
)
def test_what_counts_as_a_whole_request_is_one_to_the_parser_too(
    headers: list[tuple[bytes, bytes]], body: bytes, keeps: bytes, cut: int
) -> None:
    lines = [b"%s: %s" % header for header in headers]
    data = request(*lines, b"content-length: %d" % len(body), *([keeps] if keeps else []), body=body)
    if cut:
        data = data[:-cut]

    parsed = Parsed(data)

    assert is_whole_request(data, STARTS) is (parsed.n_complete == 1)
    assert parsed.n_begun == 1
    assert parsed.keeps or cut
