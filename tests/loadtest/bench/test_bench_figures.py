"""Figures of a run, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from bench_outcomes import outcome

from loadtest.bench.exchange import CLOSED, NO_TIER, TIMED_OUT, Outcome
from loadtest.bench.figures import between, latency_ms, percentiles, recovery_s, summary

POPULAR = 2


def test_a_percentile_is_a_value_that_occurred_and_not_below_its_share() -> None:
    # Of 1..10 the p50 lies between 5 and 6, the p90 between 9 and 10: the next one up is taken.
    told = percentiles(np.arange(1.0, 11.0))
    assert told == {"p50": 6.0, "p90": 10.0, "p99": 10.0, "p99.9": 10.0, "max": 10.0}
    assert percentiles(np.empty(0)) is None


def test_latency_counts_from_the_planned_moment_and_not_from_the_sending() -> None:
    late = outcome([0.0, 0.5], [30.0, 40.0], lag_ms=25.0)
    assert latency_ms(late).tolist() == pytest.approx([30.0, 40.0])
    assert summary(late, budget_ms=35.0)["send_lag_ms"]["max"] == pytest.approx(25.0)


def test_goodput_counts_the_first_tier_within_the_budget_alone() -> None:
    # In time by the model; in time by popularity; late by the model; refused; cut off. Over two seconds.
    run = outcome(
        [0.1, 0.2, 0.3, 0.4, 0.5],
        [10.0, 5.0, 60.0, 2.0, 3.0],
        status=[200, 200, 200, 503, CLOSED],
        tier=[0, POPULAR, 0, NO_TIER, NO_TIER],
        seconds=2.0,
    )
    told = summary(run, budget_ms=50.0)
    assert told["goodput_per_s"] == 0.5
    assert told["ok_per_s"] == 1.5
    assert told["first_tier_share"] == 0.4
    assert told["tiers"] == {"model": 2, "popular": 1}
    assert (told["refused"], told["failed"]) == (1, 1)
    assert told["refusal_ms"]["max"] == pytest.approx(2.0)
    assert told["lower_tier_ms"]["max"] == pytest.approx(5.0)


def test_a_server_without_tiers_answers_with_its_first() -> None:
    assert summary(outcome([0.0], [5.0], tier=[NO_TIER]), budget_ms=50.0)["goodput_per_s"] == 1.0


def test_replies_within_the_budget_and_its_slack_count_whatever_their_tier() -> None:
    run = outcome([0.0] * 4, [9.0, 14.0, 16.0, 1.0], tier=[0, POPULAR, 0, 0], status=[200, 200, 200, 503])
    assert summary(run, budget_ms=10.0, slack_ms=5.0)["within_budget_share"] == 0.5


def test_goodput_since_sending_forgives_a_late_generator() -> None:
    run = outcome([0.0], [60.0], lag_ms=20.0)
    told = summary(run, budget_ms=50.0)
    assert (told["goodput_per_s"], told["goodput_since_sent_per_s"]) == (0.0, 1.0)


def test_a_part_of_a_run_holds_the_requests_planned_in_it() -> None:
    part = between(outcome([0.5, 1.0, 1.5, 2.0], [1.0] * 4, seconds=3.0), 1.0, 2.0)
    assert part.planned.tolist() == [1.0, 1.5]
    assert part.seconds == 1.0


def test_recovery_is_the_begin_of_the_first_second_that_is_all_good() -> None:
    # Ten requests a second from second 1 on; those before 1.6 take too long. Windows of 0.25 s begin at 1.0: the one
    # from 1.5 still holds bad ones, those from 1.75 on are good.
    planned = np.arange(10, 40) / 10
    took = np.where(planned < 1.55, 500.0, 5.0)
    run = outcome(planned.tolist(), took.tolist(), seconds=4.0)
    assert recovery_s(run, from_s=1.0, budget_ms=100.0) == 0.75
    assert recovery_s(run, from_s=2.0, budget_ms=100.0) == 0.0


def test_a_service_that_never_comes_back_has_no_recovery() -> None:
    planned = (np.arange(40) / 10).tolist()
    run = outcome(planned, [5.0] * 40, status=[TIMED_OUT] * 40, seconds=4.0)
    assert recovery_s(run, from_s=1.0, budget_ms=100.0) is None


def test_several_generators_become_one_run_in_the_order_of_planning() -> None:
    first, second = outcome([0.1, 0.3], [1.0, 2.0]), outcome([0.2], [3.0], seconds=2.0)
    both = Outcome.together([first, second])
    assert latency_ms(both).tolist() == pytest.approx([1.0, 3.0, 2.0])
    assert both.seconds == 2.0
