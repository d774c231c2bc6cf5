from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.inference.topk import blocked as module
from service.inference.topk import ExactTopK

NOTHING = np.empty(0, np.int64)

# Five items in the plane: a right, b up, c both, d like a, e like c but short.
ITEMS = np.array([[9, 9], [1, 0], [0, 1], [1, 1], [1, 0], [0.5, 0.5]], np.float32)


def available(n_rows: int, *missing: int) -> NDArray[np.bool_]:
    mask = np.ones(n_rows, np.bool_)
    mask[[0, *missing]] = False
    return mask


def search(
    topk: ExactTopK, queries: Any, k: int, excluded: list[list[int]] | None = None
) -> list[tuple[list[int], list[float]]]:
    queries = np.asarray(queries, np.float32)
    rows = [np.array(row, np.int64) for row in excluded] if excluded else [NOTHING] * len(queries)
    return [(indices.tolist(), scores.tolist()) for indices, scores in topk.search(queries, k, rows)]


def test_items_come_best_first_with_their_scores_and_ties_go_to_the_lowest_index() -> None:
    topk = ExactTopK(ITEMS, available(6))
    assert search(topk, [[[2, 1]]], 5) == [([3, 1, 4, 5, 2], [3.0, 2.0, 2.0, 1.5, 1.0])]


def test_an_items_score_is_that_of_its_best_query() -> None:
    topk = ExactTopK(ITEMS, available(6))
    assert search(topk, [[[2, 0], [0, 3]]], 3) == [([2, 3, 1], [3.0, 3.0, 2.0])]


def test_padding_unavailable_and_excluded_items_never_appear() -> None:
    topk = ExactTopK(ITEMS, available(6, 3))
    queries = [[[2, 1]], [[2, 1]]]
    assert search(topk, queries, 2, [[1], []]) == [([4, 5], [2.0, 1.5]), ([1, 4], [2.0, 2.0])]


def test_fewer_items_than_k_give_shorter_rows() -> None:
    topk = ExactTopK(ITEMS, available(6, 3))
    assert search(topk, [[[1, 0]]], 200, [[1, 1, 2]]) == [([4, 5], [1.0, 0.5])]
    assert search(topk, [[[1, 0]]], 1, [[1, 2, 4, 5]]) == [([], [])]


def test_excluded_indices_outside_the_table_are_harmless() -> None:
    assert search(ExactTopK(ITEMS, available(6)), [[[1, 0]]], 1, [[0, 6, 10**9]]) == [([1], [1.0])]


def test_a_constant_query_of_zeros_gives_the_first_items() -> None:
    items = np.random.default_rng(3).standard_normal((5_000, 4)).astype(np.float32)
    assert search(ExactTopK(items, available(5_000)), [[[0] * 4]], 3) == [([1, 2, 3], [0.0, 0.0, 0.0])]


def test_a_query_of_nan_gives_no_items_and_leaves_its_neighbours_alone() -> None:
    topk = ExactTopK(ITEMS, available(6))
    assert search(topk, [[[np.nan, 1]], [[2, 1]]], 1) == [([], []), ([3], [3.0])]


def test_a_change_of_availability_shows_in_the_next_search() -> None:
    mask = available(6)
    topk = ExactTopK(ITEMS, mask)
    assert search(topk, [[[2, 1]]], 1) == [([3], [3.0])]
    mask[3] = False
    assert search(topk, [[[2, 1]]], 1) == [([1], [2.0])]


def test_no_rows_give_no_rows() -> None:
    assert ExactTopK(ITEMS, available(6)).search(np.empty((0, 1, 2), np.float32), 3, []) == []


@pytest.mark.parametrize(
    ("items", "mask", "message"),
    [
        (ITEMS.astype(np.float64), available(6), "expected float32 with 2"),
        (ITEMS[0], available(6), "1 axes, expected float32 with 2"),
        (ITEMS, available(5), r"shape \(5,\), expected \(6,\)"),
    ],
)
def test_a_table_that_does_not_fit_is_an_error(items: Any, mask: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExactTopK(items, mask)


def test_k_and_excluded_must_fit() -> None:
    topk = ExactTopK(ITEMS, available(6))
    with pytest.raises(ValueError, match="k is 0"):
        topk.search(np.zeros((1, 1, 2), np.float32), 0, [NOTHING])
    with pytest.raises(ValueError, match="excluded has 0 rows, queries have 1"):
        topk.search(np.zeros((1, 1, 2), np.float32), 1, [])


def reference(
    items: NDArray[np.float32], mask: NDArray[np.bool_], queries: NDArray[np.float32], k: int, excluded: list[list[int]]
) -> list[list[int]]:
    """float64, whole catalogue, one sort."""
    result = []
    for row, taken in zip(queries, excluded, strict=True):
        scores = (items.astype(np.float64) * row.astype(np.float64)[:, None, :]).sum(axis=2).max(axis=0)
        order = np.lexsort((np.arange(len(items)), -scores))
        result.append([int(item) for item in order if mask[item] and item not in taken][:k])
    return result


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_items=st.integers(1, 300),
    dim=st.integers(1, 9),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 3)),
    k=st.integers(1, 40),
    few_values=st.booleans(),
)
def test_any_search_equals_a_full_sort_in_float64(
    seed: int, n_items: int, dim: int, shape: tuple[int, int], k: int, few_values: bool
) -> None:
    rng = np.random.default_rng(seed)
    # Few distinct values make ties the rule, the harder half of the contract.
    draw = (lambda size: rng.integers(-2, 3, size)) if few_values else rng.standard_normal
    items = np.asarray(draw((n_items + 1, dim)), np.float32)
    queries = np.asarray(draw((*shape, dim)), np.float32)
    mask = rng.random(n_items + 1) < 0.9
    mask[0] = False
    excluded = [rng.integers(0, n_items + 1, rng.integers(0, 6)).tolist() for _ in range(shape[0])]
    found = search(ExactTopK(items, mask), queries, k, excluded)
    assert [indices for indices, _ in found] == reference(items, mask, queries, k, excluded)


@pytest.mark.parametrize("block", [1, 7, 64, 1_000_000])
def test_the_answer_does_not_depend_on_the_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    items = rng.standard_normal((1_000, 32)).astype(np.float32)
    items[400:800] = items[1:401]  # each of 400 vectors twice: ties across blocks
    queries = rng.standard_normal((6, 2, 32)).astype(np.float32)
    expected = reference(items, available(1_000), queries, 50, [[]] * 6)
    monkeypatch.setattr(module, "_BLOCK_ROWS", (block, block))
    assert [indices for indices, _ in search(ExactTopK(items, available(1_000)), queries, 50)] == expected


def test_the_answer_does_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(6)
    items = rng.standard_normal((3_000, 48)).astype(np.float32)
    queries = rng.standard_normal((33, 1, 48)).astype(np.float32)
    topk = ExactTopK(items, available(3_000))
    together = search(topk, queries, 20)
    assert together == [search(topk, queries[row : row + 1], 20)[0] for row in range(33)]


@pytest.mark.parametrize("block", [1, 10])
@pytest.mark.parametrize("k", [1, 2])
def test_near_ties_below_the_rounding_of_float32_are_ranked_exactly(
    block: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 1 + 2^-24 is not a float32: both items sum to 1 there, and the later one is truly larger.
    monkeypatch.setattr(module, "_BLOCK_ROWS", (block, block))
    items = np.array([[0, 0], [1, 0], [1, 2.0**-24]], np.float32)
    assert search(ExactTopK(items, available(3)), [[[1, 1]]], k)[0][0] == [2, 1][:k]


def test_scores_of_a_big_batch_are_held_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    promising = module._promising

    def spy(scores: NDArray[np.float32], *rest: Any) -> NDArray[np.intp]:
        sizes.append(len(scores))
        return promising(scores, *rest)

    monkeypatch.setattr(module, "_promising", spy)
    items = np.random.default_rng(8).standard_normal((40_000, 4)).astype(np.float32)
    ExactTopK(items, available(40_000)).search(np.ones((512, 4, 4), np.float32), 5, [NOTHING] * 512)
    assert max(sizes) * 512 * 4 <= module._SCORES_AT_ONCE
