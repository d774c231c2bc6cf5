"""Calls to an OpenAI-compatible endpoint that survive what endpoints do: limits, faults, silence and half answers.

Works with any server that speaks `/v1/chat/completions` or `/v1/embeddings` (hosted ones, vLLM, Ollama, llama.cpp).
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from models.errors import KnowledgeError
from models.knowledge.batch import Request
from models.knowledge.budget import Budget

if TYPE_CHECKING:
    import httpx

ANSWER_TOKENS: Final = 200  # reserved for an answer whose request sets no limit
FAILED_IN_A_ROW: Final = 20  # requests that all fail: nothing will answer, and asking on costs money
REPEATABLE: Final = frozenset({408, 409, 425, 429})  # and 5xx

Check = Callable[[Request, dict[str, Any]], object]  # ValueError says what is wrong with a body
Done = Callable[[Request, dict[str, Any] | None, str | None], None]  # request, body or None, fault or None


@dataclass(frozen=True)
class Retry:
    """How often and after how long a call is repeated; seconds."""

    attempts: int = 6  # calls for one request
    bad_answers: int = 2  # whole answers of the wrong form, before the request is given up
    base_s: float = 1.0  # the longest first back-off; doubles each time
    cap_s: float = 60.0
    max_wait_s: float = 300.0  # an endpoint that asks for more is asked again another day


@dataclass(frozen=True)
class Clock:
    """What time is to a client."""

    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    now: Callable[[], float] = time.time  # seconds since 1970: `Retry-After` may be a date
    jitter: Callable[[], float] = random.random  # in [0, 1)


class Endpoint:
    """Sends requests, `concurrency` at a time, to `base_url` (the part that ends in /v1)."""

    def __init__(
        self,
        base_url: str,
        key: str | None = None,
        *,
        budget: Budget | None = None,
        concurrency: int = 8,
        timeout_s: float = 120.0,
        retry: Retry | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Raises KnowledgeError if httpx is missing or `base_url` is no http address."""
        if not base_url.startswith(("http://", "https://")):
            raise KnowledgeError(f"base URL {base_url!r}: expected http://… or https://…, for example {_EXAMPLE}")
        self.base_url = base_url.rstrip("/")
        self.budget = budget or Budget()
        self._key = key
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._retry = retry or Retry()
        self._clock = clock or Clock()
        self._resume_at = 0.0  # nobody calls before this moment: the endpoint asked for a pause
        self._settled = asyncio.Event()  # set, and replaced, whenever a call ends
        self._httpx = _httpx()

    def send(self, requests: Iterable[Request], check: Check, done: Done) -> str | None:
        """Calls `done` for every request that got a good answer or was given up; None, or why it stopped before.

        Requests are taken from the iterable as calls become free. After a stop the calls in flight still end, and what
        was not asked is not reported.

        Raises:
            KnowledgeError: the endpoint refuses the key or the model, or does not answer anything.
        """
        try:
            return asyncio.run(self._send(iter(requests), check, done))
        except* KnowledgeError as errors:
            raise KnowledgeError(str(errors.exceptions[0])) from errors.exceptions[0]

    async def _send(self, queue: Iterator[Request], check: Check, done: Done) -> str | None:
        stopped: list[str] = []
        failed = 0

        async def work(client: httpx.AsyncClient) -> None:
            nonlocal failed
            for request in queue:
                try:
                    body, fault = await self._answer(client, request, check), None
                except _GivenUp as given_up:
                    body, fault = None, str(given_up)
                except _Stop as stop:
                    stopped.append(str(stop))
                    return
                failed = failed + 1 if body is None else 0
                done(request, body, fault)
                if failed >= FAILED_IN_A_ROW:
                    raise KnowledgeError(f"{self.base_url}: {failed} requests in a row failed, the last one: {fault}")
                if stopped:
                    return

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = self._httpx.Limits(max_connections=self._concurrency)
        async with (
            self._httpx.AsyncClient(headers=headers, timeout=None, limits=limits) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(self._concurrency):
                group.create_task(work(client))
        return stopped[0] if stopped else None

    async def _answer(self, client: httpx.AsyncClient, request: Request, check: Check) -> dict[str, Any]:
        n_bad = 0
        for attempt in range(self._retry.attempts):
            try:
                return await self._call(client, request, check)
            except _BadAnswer as bad:
                fault, n_bad = f"the answer {bad}", n_bad + 1
                if n_bad > self._retry.bad_answers:
                    break
            except _Failed as failed:
                fault = str(failed)
                if attempt + 1 < self._retry.attempts and not failed.pauses_all:
                    longest = min(self._retry.cap_s, self._retry.base_s * 2**attempt)
                    await self._clock.sleep(longest * (0.5 + self._clock.jitter() / 2))
        raise _GivenUp(fault)

    async def _call(self, client: httpx.AsyncClient, request: Request, check: Check) -> dict[str, Any]:
        """The checked body of one call; _Failed and _BadAnswer may be repeated."""
        estimate = estimated_tokens(request)
        await self._may_call(estimate)
        self.budget.reserve(estimate)
        body = None
        url = self.base_url + request.url.removeprefix("/v1")
        try:
            async with asyncio.timeout(self._timeout_s):  # of the whole call: an answer that trickles is late too
                response = await client.post(url, json=dict(request.body))
            if response.status_code != 200:
                self._raise_for(response, url)
            body = _json(response)
        except TimeoutError as error:
            raise _Failed(f"no answer within {self._timeout_s:g} s") from error
        except self._httpx.InvalidURL as error:
            raise KnowledgeError(f"{url}: {error}") from error
        except self._httpx.RequestError as error:
            raise _Failed(f"{url}: {type(error).__name__} {error}".rstrip()) from error
        finally:
            self.budget.settle(estimate, body)
            self._settled.set()
            self._settled = asyncio.Event()
        try:
            check(request, body)
        except ValueError as error:
            raise _BadAnswer(str(error)) from error
        return body

    async def _may_call(self, estimate: int) -> None:
        """Returns when the endpoint's pause is over and the budget has room; _Stop if it never will."""
        while True:
            while (wait := self._resume_at - self._clock.now()) > 0:
                await self._clock.sleep(wait + self._clock.jitter())  # not all at once
            if (limit := self.budget.exhausted(estimate)) is not None:
                raise _Stop(limit)
            if not self.budget.must_wait(estimate):
                return
            await self._settled.wait()

    def _raise_for(self, response: httpx.Response, url: str) -> None:
        status = response.status_code
        message, code = _error_in(response)
        fault = f"{url}: status {status}" + (f": {message}" if message else "")
        if self._key:
            fault = fault.replace(self._key, "***")
        if status in (401, 403, 404) or code == "insufficient_quota":
            raise KnowledgeError(fault)
        if status not in REPEATABLE and status < 500:
            raise _GivenUp(fault)
        after = self._retry_after(response)
        if after is None:
            raise _Failed(fault)
        if after > self._retry.max_wait_s:
            raise _Stop(f"{url} asks to wait {after:,.0f} s, longer than {self._retry.max_wait_s:g} s")
        self._resume_at = max(self._resume_at, self._clock.now() + after)
        raise _Failed(fault, pauses_all=True)

    def _retry_after(self, response: httpx.Response) -> float | None:
        """Seconds the endpoint asks to wait; None if it does not say, or not in a way one can read."""
        value = response.headers.get("retry-after", "").strip()
        try:
            return max(0.0, float(value))
        except ValueError:
            pass
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - self._clock.now())
        except ValueError:
            return None


def estimated_tokens(request: Request) -> int:
    """About how many tokens a call takes: a token per three characters, and the longest answer it allows."""
    allowed = request.body.get("max_completion_tokens") or request.body.get("max_tokens")
    answer = 0 if "input" in request.body else int(allowed or ANSWER_TOKENS)
    return len(request.text) // 3 + 1 + answer


_EXAMPLE: Final = "http://127.0.0.1:11434/v1"


class _Failed(Exception):
    """A call that may be repeated."""

    def __init__(self, message: str, pauses_all: bool = False) -> None:
        super().__init__(message)
        self.pauses_all = pauses_all


class _BadAnswer(Exception):
    """A whole answer of the wrong form; another one may be better."""


class _GivenUp(Exception):
    """A request that will not be answered."""


class _Stop(Exception):
    """No further call may be made."""


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError as error:
        raise _Failed(f"half an answer: {len(response.content)} bytes that are not JSON") from error
    if not isinstance(body, dict):
        raise _Failed(f"an answer that is a JSON {type(body).__name__}, expected an object")
    return body


def _error_in(response: httpx.Response) -> tuple[str, str | None]:
    """Message and code of an error response, whatever its form."""
    try:
        error = json.loads(response.content)["error"]
        return str(error["message"])[:300], error.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        return " ".join(response.text.split())[:300], None


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise KnowledgeError("package 'httpx' is not installed; pip install 'afterglow[llm]'") from error
    return httpx
