"""The client against a real server that misbehaves; time stands still except where the client sleeps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from fake_endpoint import Call, FakeClock, FakeEndpoint, Reply, broken_off, chat, error, truncated
from rich.console import Console

from models.errors import KnowledgeError
from models.knowledge.answer_cache import AnswerCache
from models.knowledge.ask import EndpointAnswers
from models.knowledge.batch import Answer, Request, chat_request
from models.knowledge.budget import Budget, Prices
from models.knowledge.endpoint import FAILED_IN_A_ROW, Endpoint, Retry, estimated_tokens


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[AnswerCache]:
    with AnswerCache(tmp_path / "cache") as opened:
        yield opened


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class Asker:
    """Asks `n` questions of the server with one call at a time unless told otherwise."""

    def __init__(self, server: FakeEndpoint, cache: AnswerCache, clock: FakeClock) -> None:
        self._server = server
        self._cache = cache
        self._clock = clock
        self.budget = Budget()
        self.provider: EndpointAnswers | None = None

    def __call__(
        self,
        *requests: Request,
        retry: Retry | None = None,
        concurrency: int = 1,
        timeout_s: float = 30.0,
        key: str | None = None,
        model: str | None = None,
    ) -> list[Answer]:
        endpoint = Endpoint(
            self._server.url,
            key,
            budget=self.budget,
            concurrency=concurrency,
            timeout_s=timeout_s,
            retry=retry,
            clock=self._clock.clock(),
        )
        self.provider = EndpointAnswers(endpoint, self._cache, Console(quiet=True), model)
        return list(self.provider.answers(requests))


@pytest.fixture
def asker(server: FakeEndpoint, cache: AnswerCache, clock: FakeClock) -> Asker:
    return Asker(server, cache, clock)


def question(number: int) -> Request:
    return chat_request(f"llm4sbr:shop:long:user:u{number}:prefix:1", "m", f"buyer {number}")


def contents(answers: list[Answer]) -> list[str]:
    assert all(answer.body is not None for answer in answers), answers
    return [answer.body["choices"][0]["message"]["content"] for answer in answers if answer.body]


def test_a_second_run_makes_no_call(server: FakeEndpoint, asker: Asker) -> None:
    asked = [question(n) for n in range(5)]
    first = asker(*asked)
    assert contents(first) == [f"a lamp for buyer {n}" for n in range(5)]
    assert len(server.calls) == 5
    assert asker(*asked) == first
    assert len(server.calls) == 5
    assert asker.provider is not None
    assert asker.provider.n_cached == 5


def test_another_model_or_setting_is_another_question_and_an_equal_prompt_is_the_same(
    server: FakeEndpoint, asker: Asker
) -> None:
    asker(question(1))
    asker(question(1), model="larger")
    hotter = Request(question(1).custom_id, question(1).url, {**question(1).body, "temperature": 1.0})
    asker(hotter)
    assert [call.body["model"] for call in server.calls] == ["m", "larger", "m"]
    twin = Request("llm4sbr:shop:short:user:u9:prefix:1", question(1).url, question(1).body)
    assert [answer.custom_id for answer in asker(question(1), twin)] == [question(1).custom_id, twin.custom_id]
    assert len(server.calls) == 3


def test_the_key_goes_into_the_header_and_never_into_a_message(server: FakeEndpoint, asker: Asker) -> None:
    asker(question(1), key="sk-secret")
    asker(question(2))
    assert [call.authorization for call in server.calls] == ["Bearer sk-secret", None]
    server.script = [error(401, "bad key sk-secret")]
    with pytest.raises(KnowledgeError, match=r"status 401: bad key \*\*\*"):
        asker(question(3), key="sk-secret")


def test_retry_after_in_seconds_holds_back_every_call(server: FakeEndpoint, asker: Asker, clock: FakeClock) -> None:
    server.script = [error(429, "slow down", retry_after="7")]
    assert contents(asker(question(1), question(2))) == ["a lamp for buyer 1", "a lamp for buyer 2"]
    assert clock.slept == [7.0]
    assert server.texts() == ["buyer 1", "buyer 1", "buyer 2"]


def test_retry_after_as_a_date_is_a_time_from_now(server: FakeEndpoint, asker: Asker, clock: FakeClock) -> None:
    server.script = [error(503, "later", retry_after=formatdate(clock.time + 12, usegmt=True))]
    assert len(contents(asker(question(1)))) == 1
    assert clock.slept == [12.0]


def test_all_workers_wait_when_one_is_told_to(server: FakeEndpoint, asker: Asker, clock: FakeClock) -> None:
    # Both first calls are answered 429 only once both have arrived, so each worker sees the pause.
    both = threading.Barrier(2)

    def busy(call: Call) -> Reply:
        both.wait(30)
        return error(429, retry_after="5")

    server.script = [busy, busy]
    assert len(contents(asker(*(question(n) for n in range(4)), concurrency=2))) == 4
    assert clock.time >= 1_000_005.0
    assert len(server.calls) == 6


def test_an_unreasonable_retry_after_stops_cleanly(server: FakeEndpoint, asker: Asker, clock: FakeClock) -> None:
    server.script = [chat("a lamp"), error(429, retry_after="86400")]
    answers = asker(question(1), question(2), question(3))
    assert [answer.custom_id for answer in answers] == [question(1).custom_id]
    assert asker.provider is not None
    assert asker.provider.stopped is not None
    assert "asks to wait 86,400 s" in asker.provider.stopped
    assert clock.slept == []


@pytest.mark.parametrize(
    "fault",
    [error(500), error(503), error(429), error(408), truncated(), broken_off(), Reply(body=b"[]")],
    ids=["500", "503", "429", "408", "truncated", "broken off", "no object"],
)
def test_faults_are_repeated_with_growing_jittered_pauses(
    fault: Reply, server: FakeEndpoint, asker: Asker, clock: FakeClock
) -> None:
    server.script = [fault, fault, fault]
    assert contents(asker(question(1))) == ["a lamp for buyer 1"]
    # base 1 s, doubling; jitter 0 gives the lower half
    assert clock.slept == [0.5, 1.0, 2.0]
    assert asker.budget.calls == 4


def test_pauses_stop_growing_and_attempts_end(server: FakeEndpoint, asker: Asker, clock: FakeClock) -> None:
    server.usual = lambda call: error(500, "out of memory")
    (answer,) = asker(question(1), retry=Retry(attempts=5, cap_s=2.0))
    assert answer.body is None
    assert answer.fault is not None
    assert answer.fault.endswith("status 500: out of memory")
    assert clock.slept == [0.5, 1.0, 1.0, 1.0]


def test_a_slow_answer_is_asked_again(server: FakeEndpoint, asker: Asker) -> None:
    released = threading.Event()

    def slow(call: Call) -> Reply:
        released.wait(30)
        return chat("too late")

    server.script = [slow]
    try:
        answers = asker(question(1), timeout_s=0.05, retry=Retry(attempts=200))
    finally:
        released.set()
    assert contents(answers) == ["a lamp for buyer 1"]
    assert len(server.calls) >= 2


def test_a_server_that_never_answers_is_given_up(server: FakeEndpoint, asker: Asker) -> None:
    server.hold_after = 0
    server.held.clear()
    (answer,) = asker(question(1), timeout_s=0.01, retry=Retry(attempts=2))
    assert answer.fault == "no answer within 0.01 s"


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (chat(""), "is empty"),
        (chat("I'm sorry, I cannot help."), "refuses"),
        (chat("a lam", finish_reason="length"), "finish_reason 'length'"),
        (Reply(body=b'{"choices": []}'), "is not a chat completion"),
    ],
)
def test_an_answer_of_the_wrong_form_is_asked_again_twice_and_never_kept(
    reply: Reply, why: str, server: FakeEndpoint, asker: Asker
) -> None:
    server.script = [reply, reply]
    assert contents(asker(question(1))) == ["a lamp for buyer 1"]
    server.script = [reply, reply, reply]
    (answer,) = asker(question(2))
    assert answer.fault is not None
    assert why in answer.fault
    assert contents(asker(question(2))) == ["a lamp for buyer 2"]  # it was not kept
    assert len(server.calls) == 3 + 3 + 1


def test_a_refused_request_is_given_up_at_once_and_the_others_go_on(server: FakeEndpoint, asker: Asker) -> None:
    server.script = [error(400, "too long"), chat("a chair")]
    first, second = asker(question(1), question(2))
    assert first.fault is not None
    assert "status 400: too long" in first.fault
    assert contents([second]) == ["a chair"]
    assert len(server.calls) == 2


@pytest.mark.parametrize(
    "fatal", [error(401), error(403), error(404, "no such model"), error(429, code="insufficient_quota")]
)
def test_a_refused_key_or_model_ends_the_run_at_the_first_call(
    fatal: Reply, server: FakeEndpoint, asker: Asker
) -> None:
    server.script = [fatal]
    with pytest.raises(KnowledgeError, match=f"/v1/chat/completions: status {fatal.status}"):
        asker(question(1), question(2))
    assert len(server.calls) == 1


def test_an_endpoint_that_fails_everything_is_left_alone(server: FakeEndpoint, asker: Asker) -> None:
    server.usual = lambda call: error(422, "unknown field")
    with pytest.raises(KnowledgeError, match=f"{FAILED_IN_A_ROW} requests in a row failed.*unknown field"):
        asker(*(question(n) for n in range(100)))
    assert len(server.calls) == FAILED_IN_A_ROW


def test_nobody_listening_is_said_after_the_attempts(server: FakeEndpoint, asker: Asker) -> None:
    server.close()
    (answer,) = asker(question(1), retry=Retry(attempts=2))
    assert answer.fault is not None
    assert "ConnectError" in answer.fault


def test_no_more_calls_run_at_once_than_allowed(server: FakeEndpoint, asker: Asker) -> None:
    together = threading.Barrier(3)

    def meet(call: Call) -> Reply:
        together.wait(30)  # three calls are in flight, or this breaks
        return chat("a lamp")

    server.usual = meet
    assert len(contents(asker(*(question(n) for n in range(9)), concurrency=3))) == 9
    assert server.most_at_once == 3


def test_a_budget_of_calls_stops_cleanly_and_the_next_run_goes_on(server: FakeEndpoint, asker: Asker) -> None:
    asked = [question(n) for n in range(6)]
    asker.budget = Budget(max_calls=4)
    server.script = [error(500)]  # a repeated call counts too
    answers = asker(*asked)
    assert len(contents(answers)) == 3
    assert len(server.calls) == 4
    assert asker.provider is not None
    assert asker.provider.stopped == "the budget of 4 calls is spent"
    asker.budget = Budget()
    assert len(contents(asker(*asked))) == 6
    assert len(server.calls) == 7


def test_a_budget_of_tokens_counts_calls_in_flight(server: FakeEndpoint, asker: Asker) -> None:
    each = estimated_tokens(question(1))  # 7 characters: 3, and 200 for the answer
    assert each == 203
    asker.budget = Budget(max_tokens=2 * each, prices=Prices(prompt=1.0, completion=4.0))
    assert len(contents(asker(*(question(n) for n in range(100)), concurrency=4))) == 14
    # Answers take 15 tokens of the 203 reserved: the last call starts with at most 203 spent, at the 14th.
    assert asker.budget.tokens == 14 * 15
    assert asker.budget.summary() == "14 calls, 140 + 70 tokens, $0.0004"
    assert server.most_at_once <= 2


def test_an_answer_of_the_wrong_form_costs_its_tokens(server: FakeEndpoint, asker: Asker) -> None:
    server.script = [chat("")]
    asker(question(1))
    assert (asker.budget.prompt_tokens, asker.budget.completion_tokens) == (20, 10)


def test_a_kept_answer_that_no_longer_passes_is_asked_again(
    server: FakeEndpoint, asker: Asker, cache: AnswerCache
) -> None:
    cache.put("m", question(1).digest, {"choices": []})
    assert contents(asker(question(1))) == ["a lamp for buyer 1"]


def test_an_address_must_be_http() -> None:
    with pytest.raises(KnowledgeError, match=r"'localhost:8000': expected http://"):
        Endpoint("localhost:8000")


def test_a_cache_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "answers.sqlite").write_text("not a database, but long enough to be read as one" * 20)
    with pytest.raises(KnowledgeError, match=r"answers\.sqlite: cannot be used"):
        AnswerCache(tmp_path)
