from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from napkin import ManualClock

from service.deadline import Deadline, granted_ms
from service.errors import BadHeader


def test_a_deadline_counts_from_arrival_not_from_its_making() -> None:
    clock = ManualClock(10.0)
    deadline = Deadline.start(50, started_at=9.98, clock=clock)

    assert deadline.left_ms == pytest.approx(30)
    assert deadline.elapsed_ms == pytest.approx(20)
    assert deadline.left_s == pytest.approx(0.029)  # 1 ms is kept for the reply
    assert not deadline.spent


def test_a_deadline_is_spent_when_its_time_has_passed() -> None:
    clock = ManualClock(10.0)
    deadline = Deadline.start(50, 10.0, clock)

    clock.advance(0.05)

    assert deadline.spent
    assert deadline.left_ms == 0


@pytest.mark.parametrize(("granted", "spent"), [(1, True), (4, True), (5, False)])
def test_a_budget_below_five_milliseconds_is_spent_from_the_start(granted: int, spent: bool) -> None:
    assert Deadline.start(granted, 10.0, ManualClock(10.0)).spent is spent


@pytest.mark.parametrize(
    ("header", "expected"),
    [(None, 100), ("1", 1), ("250", 250), ("0007", 7), ("1000", 1_000), ("1001", 1_000), ("9" * 5_000, 1_000)],
)
def test_the_header_wins_over_the_default_and_is_cut_to_the_limit(header: str | None, expected: int) -> None:
    assert granted_ms(header, default_ms=100, max_ms=1_000) == expected


@pytest.mark.parametrize("header", ["0", "-1", "", " ", "1.5", "1e3", "+5", "ten", "0x10", "٣", "²", "5 6", "5\n"])
def test_a_header_that_is_not_a_positive_integer_is_bad(header: str) -> None:
    with pytest.raises(BadHeader):
        granted_ms(header, default_ms=100, max_ms=1_000)


@given(st.text())
def test_no_text_in_the_header_breaks_the_service(header: str) -> None:
    try:
        budget = granted_ms(header, default_ms=100, max_ms=1_000)
    except BadHeader:
        return
    assert 1 <= budget <= 1_000


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [("1H", 1_000.0), ("1S", 1_000.0), ("250m", 250.0), ("1500u", 1.5), ("0m", 0.0), ("5000000n", 5.0)],
)
def test_grpc_gives_the_budget_in_its_own_spelling(value: str, milliseconds: float) -> None:
    assert granted_ms(None, value, default_ms=100, max_ms=1_000) == pytest.approx(milliseconds)


@pytest.mark.parametrize("value", ["", "5", "m", "123456789m", "-1m", "1.5S", "5 m", "5s", "٣m"])
def test_a_grpc_timeout_that_grpc_would_not_send_is_bad(value: str) -> None:
    with pytest.raises(BadHeader):
        granted_ms(None, value, default_ms=100, max_ms=1_000)


@pytest.mark.parametrize(
    ("own", "grpc", "envoy", "expected"),
    [
        ("50", "80m", "70", 50),
        ("90", "80m", None, 80),
        ("90", None, "70", 70),
        (None, "80m", "0", 80),
        (None, None, "0", 100),
    ],
)
def test_the_smallest_budget_given_wins_and_zero_of_envoy_is_none(
    own: str | None, grpc: str | None, envoy: str | None, expected: float
) -> None:
    assert granted_ms(own, grpc, envoy, default_ms=100, max_ms=1_000) == expected
