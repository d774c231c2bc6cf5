from __future__ import annotations

import asyncio

import pytest
from http_stand_in import Handler, serving

from loadtest.client import Client, NoReply
from loadtest.errors import InputError, ServiceError

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


def answer(*replies: bytes, close_after: bool = False, seen: list[bytes] | None = None) -> Handler:
    """Gives the replies one by one on each connection."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            request = await read_request(reader)
            if seen is not None:
                seen.append(request)
            writer.write(reply)
        if not close_after:
            await reader.read()

    return handle


async def test_a_request_arrives_whole_and_its_reply_comes_back() -> None:
    seen: list[bytes] = []
    async with serving(answer(OK, seen=seen)) as url, Client(url) as client:
        reply = await client.post("/v1/x", {"a": 1}, headers="X-Request-Timeout-Ms: 50\r\n")
    assert reply.status == 200
    assert reply.json() == {}
    assert reply.done_s >= reply.sent_s
    assert seen[0].startswith(b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"X-Request-Timeout-Ms: 50\r\n" in seen[0]
    assert seen[0].endswith(b'\r\n\r\n{"a":1}')


async def test_connections_are_kept_and_used_again() -> None:
    connections = 0
    inner = answer(OK, OK, OK)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await inner(reader, writer)

    async with serving(handle) as url, Client(url) as client:
        for _ in range(3):
            await client.get("/")
    assert connections == 1


async def test_a_chunked_reply_is_put_together() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n1\r\n]\r\n0\r\n\r\n"
    async with serving(answer(chunked)) as url, Client(url) as client:
        assert (await client.get("/")).json() == [1]


async def test_an_idle_connection_that_the_server_closed_is_replaced_unnoticed() -> None:
    closing = answer(OK, close_after=True)
    async with serving(closing) as url, Client(url) as client:
        assert [(await client.get("/")).status for _ in range(3)] == [200, 200, 200]


async def test_no_reply_in_time_is_a_timeout() -> None:
    async with serving(answer()) as url, Client(url) as client:
        with pytest.raises(NoReply) as failure:
            await client.get("/", timeout_s=0.05)
    assert failure.value.reason == "timeout"
    assert failure.value.sent_s is not None


async def test_a_reply_that_is_not_http_is_a_protocol_failure() -> None:
    async with serving(answer(b"nonsense\r\n\r\n")) as url, Client(url) as client:
        with pytest.raises(NoReply) as failure:
            await client.get("/")
    assert failure.value.reason == "protocol"


async def test_nobody_listening_is_refused() -> None:
    async with serving(answer()) as url:
        pass
    async with Client(url) as client:
        with pytest.raises(NoReply) as failure:
            await client.get("/")
    assert failure.value.reason == "refused"


async def test_requests_beyond_the_bound_wait_for_their_turn_and_give_up_in_time() -> None:
    release = asyncio.Event()
    open_now, most_open = 0, 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, most_open
        while True:
            await read_request(reader)
            open_now += 1
            most_open = max(most_open, open_now)
            await release.wait()
            open_now -= 1
            writer.write(OK)

    async with serving(handle) as url, Client(url, max_connections=2) as client:
        requests = [asyncio.create_task(client.get("/")) for _ in range(5)]
        await asyncio.sleep(0)  # they are in line first
        with pytest.raises(NoReply) as failure:
            await client.get("/", timeout_s=0.05)
        assert failure.value.reason == "not_sent"
        assert failure.value.sent_s is None
        release.set()
        assert {(await request).status for request in requests} == {200}
    assert most_open == 2


async def test_a_cancelled_request_gives_its_place_back() -> None:
    async with serving(answer(OK)) as url, Client(url, max_connections=1) as client:
        first = asyncio.create_task(client.get("/"))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(client.get("/"))
        await asyncio.sleep(0)
        first.cancel()
        waiting.cancel()
        await asyncio.gather(first, waiting, return_exceptions=True)
        assert (await client.get("/")).status == 200


@pytest.mark.parametrize("url", ["ftp://host", "http://", ""])
def test_a_host_that_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="host"):
        Client(url)


async def test_a_body_that_is_not_json_is_named() -> None:
    html = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"
    async with serving(answer(html)) as url, Client(url) as client:
        with pytest.raises(ServiceError, match="<html>"):
            (await client.get("/")).json()
