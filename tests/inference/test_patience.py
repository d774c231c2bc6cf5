from __future__ import annotations

import pytest

from service.inference.patience import Patience

MS = 0.001


def test_nobody_is_waited_for_as_long_as_nobody_came_back() -> None:
    patience = Patience()
    assert [patience.ended(at, 0.020, 0) for at in (0.0, 0.1, 0.2)] == [0.0, 0.0, 0.0]


def test_who_came_back_within_a_quarter_of_the_run_is_waited_for_that_long() -> None:
    patience = Patience()
    patience.ended(1.0, 20 * MS, 0)
    patience.asked(1.005)
    assert patience.ended(1.030, 24 * MS, 0) == pytest.approx(6 * MS)


def test_who_came_later_did_not_come_back() -> None:
    patience = Patience()
    patience.ended(1.0, 20 * MS, 0)
    patience.asked(1.006)
    assert patience.ended(1.030, 24 * MS, 0) == 0


@pytest.mark.parametrize(("came", "pays"), [(4, False), (5, True)])
def test_the_wait_pays_where_more_than_half_as_many_come_as_wait_already(came: int, pays: bool) -> None:
    patience = Patience()
    patience.ended(1.0, 20 * MS, 8)
    for _ in range(came):
        patience.asked(1.001)
    # Moving averages, the newest with a fifth: 8 x .2 x .8 + 8 x .2 = 2.88 wait and came x .2 come back.
    patience.ended(1.030, 20 * MS, 8)
    for _ in range(came):
        patience.asked(1.031)
    # 2.88 x .8 + 1.6 = 3.904 wait, half of it is 1.952; 4 come to 4 x .2 x .8 + .8 = 1.44 and 5 to 1.8.
    patience.ended(1.060, 20 * MS, 8)
    for _ in range(came):
        patience.asked(1.061)
    # 4.723, half of it 2.362; 4 come to 1.952 and 5 to 2.44.
    assert bool(patience.ended(1.090, 20 * MS, 8)) is pays


def test_no_wait_is_longer_than_ten_milliseconds() -> None:
    patience = Patience()
    patience.ended(1.0, 1.0, 0)
    patience.asked(1.009)
    assert patience.ended(3.0, 1.0, 0) == 10 * MS


def test_callers_that_come_as_they_please_are_not_waited_for() -> None:
    # 1,000 a second, runs of 20 ms: 20 come during a run, 5 of them in its first quarter.
    patience = Patience()
    at, waits = 0.0, []
    for _ in range(50):
        at += 0.020
        waits.append(patience.ended(at, 0.020, 20))
        for n in range(20):
            patience.asked(at + n * MS)
    assert set(waits) == {0.0}
