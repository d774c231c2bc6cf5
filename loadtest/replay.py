"""A whole test set through `POST /v1/recommend/batch`: is the served answer the evaluated answer?"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from loadtest.client import Client, NoReply
from loadtest.errors import InputError, ServiceError
from loadtest.predictions import Case, Served
from loadtest.progress import Update, progress
from loadtest.recorder import percentiles

BATCH_PATH = "/v1/recommend/batch"
MAX_BATCH = 256


@dataclass(frozen=True)
class Replay:
    """How a test set is sent: `batch_size` users a call, `concurrency` calls at once, each with `budget_ms`."""

    batch_size: int = 128
    concurrency: int = 2
    budget_ms: int = 30_000
    scenario: str | None = None
    count: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= MAX_BATCH or self.concurrency < 1 or self.budget_ms < 1:
            raise InputError(
                f"replay: batch size {self.batch_size} (expected 1..{MAX_BATCH}), concurrency {self.concurrency} and "
                f"budget {self.budget_ms} ms (expected at least 1)"
            )

    def body(self, cases: Sequence[Case]) -> dict[str, Any]:
        """The request for some users; degrading is forbidden, so that no popular list passes for the model's."""
        return {"requests": [self._request(case) for case in cases]}

    def _request(self, case: Case) -> dict[str, Any]:
        request: dict[str, Any] = {
            "history": [{"item_id": item_id} for item_id in case.history],
            "count": self.count,
            "degrade": "never",
        }
        return request if self.scenario is None else {**request, "scenario": self.scenario}


@dataclass(frozen=True)
class Replayed:
    """Replies aligned with the first cases of the test set; fewer than all after an interrupt."""

    replies: list[Served]
    seconds: float
    call_ms: list[float]

    def speed(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 3),
            "users_per_s": round(len(self.replies) / self.seconds, 1) if self.seconds else None,
            "call_ms": percentiles(np.array(self.call_ms)),
        }


async def replay(client: Client, cases: Sequence[Case], how: Replay, *, stop: asyncio.Event) -> Replayed:
    """Sends every case and returns the replies in the order of the cases.

    Raises:
        ServiceError: a call as a whole was not answered with 200 and one result per request.
    """
    starts = range(0, len(cases), how.batch_size)
    answers: dict[int, list[Served]] = {}
    call_ms: list[float] = []
    started_s = perf_counter()
    queue = iter(starts)

    async def work(update: Update) -> None:
        for start in queue:
            if stop.is_set():
                return
            chunk = cases[start : start + how.batch_size]
            sent_s = perf_counter()
            answers[start] = await _call(client, chunk, how)
            call_ms.append((perf_counter() - sent_s) * 1e3)
            update(sum(map(len, answers.values())), "users")

    with progress("replay", len(cases)) as update:
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(how.concurrency):
                    workers.create_task(work(update))
        except ExceptionGroup as failures:  # the calls fail alike: the first failure says it
            raise failures.exceptions[0] from None
    seconds = perf_counter() - started_s
    replies: list[Served] = []
    for start in starts:  # up to the first call that an interrupt left out
        if start not in answers:
            break
        replies += answers[start]
    return Replayed(replies, seconds, call_ms)


def promises(
    found: dict[str, Any],
    coverage: dict[str, Any] | None,
    *,
    n_users: int,
    min_same_share: float,
    evaluated: dict[str, Any] | None = None,
) -> dict[str, bool]:
    """The promises of a replay, each kept or not.

    Args:
        found: of `compare`; coverage: of `check_against_dataset`, None where no dataset was given.
        n_users: users in the prediction file; fewer replayed ones are not the whole test set.
        evaluated: of `check_against_evaluation`, None where the file lies beside no evaluation.
    """
    kept = {
        "every user answered by the model": found["tiers"] == {"model": n_users} and not found["degraded"],
        f"same list for {min_same_share:.1%} of the users": found["same_list_share"] >= min_same_share,
        "lists differ at score ties only": found["differing_beyond_ties"] == 0,
    }
    if evaluated is not None and evaluated["complete"] is not None:
        kept["the file gives the figures of its evaluation"] = evaluated["complete"]
    if coverage is not None:
        kept["the file is the whole test set of the dataset"] = coverage["complete"]
    return kept


async def _call(client: Client, cases: Sequence[Case], how: Replay) -> list[Served]:
    headers = f"X-Request-Timeout-Ms: {how.budget_ms}\r\n"
    try:
        response = await client.post(BATCH_PATH, how.body(cases), headers=headers, timeout_s=how.budget_ms / 1e3 + 5)
    except NoReply as failure:
        raise ServiceError(f"{BATCH_PATH}: no reply ({failure.reason}) to {len(cases)} requests") from failure
    if response.status != 200:
        raise ServiceError(f"{BATCH_PATH}: status {response.status}, {response.body[:300]!r}; expected 200")
    results = response.json().get("results")
    if not isinstance(results, list) or len(results) != len(cases):
        raise ServiceError(f"{BATCH_PATH}: {len(cases)} requests were not answered with as many results")
    return [read_result(result) for result in results]


def read_result(result: dict[str, Any]) -> Served:
    """One entry of a batch reply: a recommend reply with its `status`, or a problem."""
    if result["status"] != 200:
        return Served(int(result["status"]))
    return Served(
        status=200,
        items=tuple(item["item_id"] for item in result["items"]),
        scores=tuple(-math.inf if item["score"] is None else item["score"] for item in result["items"]),
        tier=result["served"]["tier"],
        degraded=result["served"]["degraded"],
    )
