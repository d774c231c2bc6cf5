from __future__ import annotations

import numpy as np
import pytest

from service.inference.golden import golden_histories, ranking_fault


def ranked(*pairs: tuple[int, float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([item for item, _ in pairs], np.int64), np.array([score for _, score in pairs], np.float32)


EXPECTED = ranked((7, 3.0), (2, 2.0), (5, 1.0))


@pytest.mark.parametrize(
    "found",
    [
        EXPECTED,
        ranked((7, 3.05), (2, 1.95), (5, 1.0)),
        ranked((7, 3.0), (2, 2.0), (9, 1.05)),  # 9 was just below the third place
    ],
)
def test_rankings_that_differ_within_the_tolerance_agree(found: tuple[np.ndarray, np.ndarray]) -> None:
    assert ranking_fault(EXPECTED, found, atol=0.1) is None


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (ranked((7, 3.0), (2, 2.0)), "2 items came back, expected 3"),
        (ranked((2, 3.0), (7, 2.0), (5, 1.0)), "item 7 scores 2, expected 3 within 0.1"),
        (ranked((7, 3.0), (2, 2.0), (9, 1.5)), "item 9 came back with score 1.5 and is not expected"),
        (ranked((7, 3.0), (9, 0.5), (5, 1.0)), "item 2 is expected with score 2 and did not come back"),
        (ranked((7, 3.0), (2, float("nan")), (5, 1.0)), "item 2 scores nan"),
        (ranked((7, 3.0), (2, 2.0), (9, float("nan"))), "item 9 came back with score nan"),
    ],
)
def test_rankings_that_differ_by_more_say_how(found: tuple[np.ndarray, np.ndarray], message: str) -> None:
    fault = ranking_fault(EXPECTED, found, atol=0.1)
    assert fault is not None
    assert message in fault


@pytest.mark.parametrize("max_seq_len", [1, 2, 50])
def test_golden_histories_cover_empty_short_exact_and_over_long(max_seq_len: int) -> None:
    cases, histories = golden_histories(max_seq_len, n_items=9)
    lengths = {case: [len(h) for c, h in zip(cases, histories, strict=True) if c == case] for case in cases}
    assert lengths["empty"] == [0]
    assert min(lengths["short"]) == 1
    assert max(lengths["short"]) <= max_seq_len
    assert lengths["exact"] == [max_seq_len] * 2
    assert min(lengths["over-long"]) > max_seq_len
    assert {item for history in histories for item in history} <= set(range(1, 10))
