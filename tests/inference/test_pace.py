from __future__ import annotations

import pytest

from service.inference.pace import Pace


def test_nothing_is_known_before_the_first_run() -> None:
    assert Pace(32).of(8) == 0


def test_runs_of_about_the_same_size_speak_for_each_other() -> None:
    pace = Pace(32)
    pace.note(5, 0.004)

    assert pace.of(8) == pace.of(6) == 0.004


def test_a_size_that_never_ran_is_judged_by_the_next_larger_or_else_in_proportion() -> None:
    pace = Pace(32)
    pace.note(4, 0.010)

    assert pace.of(1) == 0.010
    assert pace.of(16) == 0.040


def test_one_outlier_changes_nothing_and_a_lasting_change_shows() -> None:
    pace = Pace(32)
    for _ in range(20):
        pace.note(1, 0.001)
    pace.note(1, 5.0)
    assert pace.of(1) == 0.001

    for _ in range(10):
        pace.note(1, 0.002)
    assert pace.of(1) == 0.002


def test_the_most_rows_that_fit_a_time_are_found_and_two_always_do() -> None:
    pace = Pace(20)
    for rows, seconds in ((1, 0.001), (2, 0.002), (4, 0.004), (8, 0.008), (16, 0.016), (20, 0.020)):
        pace.note(rows, seconds)

    assert [pace.rows_within(seconds) for seconds in (1.0, 0.016, 0.005)] == [20, 16, 4]
    assert pace.rows_within(0.0001) == 2  # two take no longer than 2.5 times one
    with pytest.raises(IndexError):
        pace.note(200, 1.0)


def test_rows_that_cost_little_run_together_even_where_one_alone_takes_longer_than_its_share() -> None:
    pace = Pace(32)
    for rows, seconds in ((1, 0.040), (2, 0.044), (4, 0.050), (8, 0.064), (16, 0.110)):
        pace.note(rows, seconds)
    assert pace.rows_within(0.033) == 8  # 64 ms are within 2.5 times 40 ms
    assert pace.rows_within(0.120) == 16


def test_a_size_that_was_slow_once_is_believed_to_be_no_slower_than_smaller_ones_make_it() -> None:
    pace = Pace(16)
    pace.note(16, 5.0)  # and is not run any more, because it was
    for _ in range(10):
        pace.note(4, 0.004)
    assert pace.of(16) == 0.016
