from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.inference.topk import (
    BACKENDS,
    Backend,
    ExactTopK,
    TopK,
    blocked,
    choose,
    groups,
    int8_scan,
    make_topk,
    scan,
)
from service.inference.topk.certified import CertifiedTopK

NOTHING = np.empty(0, np.int64)

# Five items in the plane: a right, b up, c both, d like a, e like c but short.
ITEMS = np.array([[9, 9], [1, 0], [0, 1], [1, 1], [1, 0], [0.5, 0.5]], np.float32)


def available(n_rows: int, *missing: int) -> NDArray[np.bool_]:
    mask = np.ones(n_rows, np.bool_)
    mask[[0, *missing]] = False
    return mask


def search(
    topk: TopK, queries: Any, k: int, excluded: list[list[int]] | None = None
) -> list[tuple[list[int], list[float]]]:
    queries = np.asarray(queries, np.float32)
    rows = [np.array(row, np.int64) for row in excluded] if excluded else [NOTHING] * len(queries)
    return [(indices.tolist(), scores.tolist()) for indices, scores in topk.search(queries, k, rows)]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    name: Backend = request.param
    return name


def test_items_come_best_first_with_their_scores_and_ties_go_to_the_lowest_index(backend: Backend) -> None:
    topk = make_topk(backend, ITEMS, available(6))
    assert search(topk, [[[2, 1]]], 5) == [([3, 1, 4, 5, 2], [3.0, 2.0, 2.0, 1.5, 1.0])]


def test_an_items_score_is_that_of_its_best_query(backend: Backend) -> None:
    topk = make_topk(backend, ITEMS, available(6), n_queries=2)
    assert search(topk, [[[2, 0], [0, 3]]], 3) == [([2, 3, 1], [3.0, 3.0, 2.0])]


def test_padding_unavailable_and_excluded_items_never_appear(backend: Backend) -> None:
    topk = make_topk(backend, ITEMS, available(6, 3))
    queries = [[[2, 1]], [[2, 1]]]
    assert search(topk, queries, 2, [[1], []]) == [([4, 5], [2.0, 1.5]), ([1, 4], [2.0, 2.0])]


def test_fewer_items_than_k_give_shorter_rows(backend: Backend) -> None:
    topk = make_topk(backend, ITEMS, available(6, 3))
    assert search(topk, [[[1, 0]]], 200, [[1, 1, 2]]) == [([4, 5], [1.0, 0.5])]
    assert search(topk, [[[1, 0]]], 1, [[1, 2, 4, 5]]) == [([], [])]


def test_excluded_indices_outside_the_table_are_harmless(backend: Backend) -> None:
    assert search(make_topk(backend, ITEMS, available(6)), [[[1, 0]]], 1, [[0, 6, 10**9]]) == [([1], [1.0])]


@pytest.mark.parametrize("dim", [3, 5, 17, 65])
@pytest.mark.parametrize("n_queries", [1, 2])
def test_equal_items_tie_wherever_they_lie_in_the_table(backend: Backend, dim: int, n_queries: int) -> None:
    # A sum whose order depended on the alignment of a row would break the tie.
    rng = np.random.default_rng(dim)
    items = np.zeros((1_500, dim), np.float32)
    twins = [7, 8, 300, 301, 777, 1_498]
    items[twins] = rng.standard_normal(dim)
    queries = np.repeat(items[7][None, None], n_queries, axis=1)
    found, scores = search(make_topk(backend, items, available(1_500), n_queries=n_queries), queries, 6)[0]
    assert (found, len(set(scores))) == (twins, 1)


def test_a_constant_query_of_zeros_gives_the_first_items(backend: Backend) -> None:
    items = np.random.default_rng(3).standard_normal((5_000, 4)).astype(np.float32)
    assert search(make_topk(backend, items, available(5_000)), [[[0] * 4]], 3) == [([1, 2, 3], [0.0, 0.0, 0.0])]


def test_a_query_of_nan_gives_no_items_and_leaves_its_neighbours_alone(backend: Backend) -> None:
    topk = make_topk(backend, ITEMS, available(6))
    assert search(topk, [[[np.nan, 1]], [[2, 1]]], 1) == [([], []), ([3], [3.0])]


def test_a_change_of_availability_shows_in_the_next_search(backend: Backend) -> None:
    mask = available(6)
    topk = make_topk(backend, ITEMS, mask)
    assert search(topk, [[[2, 1]]], 1) == [([3], [3.0])]
    mask[3] = False
    assert search(topk, [[[2, 1]]], 1) == [([1], [2.0])]


@pytest.mark.parametrize("n_queries", [1, 3])
def test_few_and_many_unavailable_items_may_take_turns(backend: Backend, n_queries: int) -> None:
    # 20,003 rows are no whole groups of 16; 300 are more than are struck out one by one.
    rng = np.random.default_rng(15)
    items = rng.standard_normal((20_003, 16)).astype(np.float32)
    queries = rng.standard_normal((2, n_queries, 16)).astype(np.float32)
    mask = available(len(items))
    topk = make_topk(backend, items, mask, n_queries=n_queries)
    best = reference(items, mask, queries, 300, [[], []])[0]
    for hidden in ([], best[:5], best, best[:2]):
        mask[1:] = True
        mask[hidden] = False
        excluded = [best[5:9], []]
        expected = reference(items, mask, queries, 10, excluded)
        assert [found for found, _ in search(topk, queries, 10, excluded)] == expected


def test_no_rows_give_no_rows(backend: Backend) -> None:
    assert make_topk(backend, ITEMS, available(6)).search(np.empty((0, 1, 2), np.float32), 3, []) == []


@pytest.mark.parametrize(
    ("items", "mask", "message"),
    [
        (ITEMS.astype(np.float64), available(6), "expected float32 with 2"),
        (ITEMS[0], available(6), "1 axes, expected float32 with 2"),
        (ITEMS, available(5), r"shape \(5,\), expected \(6,\)"),
    ],
)
def test_a_table_that_does_not_fit_is_an_error(backend: Backend, items: Any, mask: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_topk(backend, items, mask)


def test_k_and_excluded_must_fit(backend: Backend) -> None:
    topk = make_topk(backend, ITEMS, available(6))
    with pytest.raises(ValueError, match="k is 0"):
        topk.search(np.zeros((1, 1, 2), np.float32), 0, [NOTHING])
    with pytest.raises(ValueError, match="excluded has 0 rows, queries have 1"):
        topk.search(np.zeros((1, 1, 2), np.float32), 1, [])


def reference(
    items: NDArray[np.float32], mask: NDArray[np.bool_], queries: NDArray[np.float32], k: int, excluded: list[list[int]]
) -> list[list[int]]:
    """float64, whole catalogue, one sort."""
    result = []
    for row, taken in zip(queries, map(set, excluded), strict=True):
        scores = (items.astype(np.float64) * row.astype(np.float64)[:, None, :]).sum(axis=2).max(axis=0)
        order = np.lexsort((np.arange(len(items)), -scores))
        result.append([int(item) for item in order if mask[item] and item not in taken][:k])
    return result


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    n_items=st.one_of(st.integers(1, 100), st.integers(1_000, 3_000)),
    dim=st.integers(1, 9),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 3)),
    k=st.integers(1, 40),
    kind=st.sampled_from(["normal", "few values", "skewed"]),
    hidden=st.sampled_from([0.0, 0.1, 0.9, 0.998]),
)
def test_any_search_equals_a_full_sort_in_float64(
    backend: Backend,
    seed: int,
    n_items: int,
    dim: int,
    shape: tuple[int, int],
    k: int,
    kind: str,
    hidden: float,
) -> None:
    rng = np.random.default_rng(seed)
    # Few distinct values make ties the rule, the harder half of the contract.
    draw = (lambda size: rng.integers(-2, 3, size)) if kind == "few values" else rng.standard_normal
    items = np.asarray(draw((n_items + 1, dim)), np.float32)
    if kind == "skewed":
        items *= rng.lognormal(0, 2, (n_items + 1, 1)).astype(np.float32)
    queries = np.asarray(draw((*shape, dim)), np.float32)
    mask = rng.random(n_items + 1) >= hidden
    mask[0] = False
    # Half of the excluded items are the very best: what a model trained on repeats does with seen items.
    best = reference(items, mask, queries, 30, [[]] * shape[0])
    excluded = [
        [*rng.integers(0, n_items + 1, rng.integers(0, 6)).tolist(), *row[: rng.integers(0, 31)]] for row in best
    ]
    topk = make_topk(backend, items, mask, n_queries=shape[1])
    found = search(topk, queries, k, excluded)
    assert [indices for indices, _ in found] == reference(items, mask, queries, k, excluded)


@pytest.fixture(scope="module")
def large() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """20,000 items, and three rows of queries."""
    rng = np.random.default_rng(11)
    return rng.standard_normal((20_001, 16)).astype(np.float32), rng.standard_normal((3, 1, 16)).astype(np.float32)


def test_five_hundred_seen_items_that_are_the_best_are_left_out(backend: Backend, large: Any) -> None:
    items, queries = large
    mask = available(len(items))
    seen = reference(items, mask, queries, 500, [[]] * 3)
    assert [found for found, _ in search(make_topk(backend, items, mask), queries, 20, seen)] == reference(
        items, mask, queries, 20, seen
    )


def test_most_of_the_catalogue_may_be_unavailable(backend: Backend, large: Any) -> None:
    items, queries = large
    mask = available(len(items))
    mask[reference(items, mask, queries, 9_000, [[]] * 3)[0]] = False  # the best 9,000 of the first row
    topk = make_topk(backend, items, mask)
    assert [found for found, _ in search(topk, queries, 20)] == reference(items, mask, queries, 20, [[]] * 3)
    mask[:] = False
    mask[[7, 8, 9_999]] = True
    assert [sorted(found) for found, _ in search(topk, queries, 20)] == [[7, 8, 9_999]] * 3


def test_everything_but_three_items_may_be_excluded(backend: Backend, large: Any) -> None:
    items, queries = large
    excluded = [[item for item in range(1, len(items)) if item not in (5, 17, 20_000)], [], []]
    found = search(make_topk(backend, items, available(len(items))), queries, 20, excluded)
    assert sorted(found[0][0]) == [5, 17, 20_000]
    assert [indices for indices, _ in found] == reference(items, available(len(items)), queries, 20, excluded)


def test_a_batch_larger_than_one_pass_is_answered_in_passes(backend: Backend) -> None:
    rng = np.random.default_rng(12)
    items = rng.standard_normal((2_000, 8)).astype(np.float32)
    queries = rng.standard_normal((300, 1, 8)).astype(np.float32)
    mask = available(2_000)
    found = [indices for indices, _ in search(make_topk(backend, items, mask), queries, 5)]
    assert found == reference(items, mask, queries, 5, [[]] * 300)


def test_scores_too_large_for_float32_are_ranked_all_the_same(backend: Backend) -> None:
    items = np.zeros((3_000, 2), np.float32)
    items[1:, 0] = np.linspace(1e30, 3e38, 2_999, dtype=np.float32)
    with np.errstate(over="ignore"):
        found = make_topk(backend, items, available(3_000)).search(np.full((1, 1, 2), 1e10, np.float32), 1, [NOTHING])
    assert len(found[0][0]) <= 1  # no crash; scores that are infinite in float32 have no order to speak of


@pytest.mark.parametrize(("n_items", "fallbacks"), [(40, 0), (1_000, 0), (5_000, 1)])
def test_in_the_graph_more_items_are_scored_exactly_where_all_are_equal(n_items: int, fallbacks: int) -> None:
    topk = make_topk("in-graph", np.ones((n_items + 1, 2), np.float32), available(n_items + 1))
    assert search(topk, [[[1, 1]]], 5) == [([1, 2, 3, 4, 5], [2.0] * 5)]
    assert topk.fallbacks == fallbacks


@pytest.mark.parametrize("name", ["scan", "int8"])
def test_rows_that_cannot_be_certified_are_answered_by_the_fallback_and_counted(name: Backend, large: Any) -> None:
    items, queries = large
    topk = make_topk(name, items, available(len(items)))
    assert isinstance(topk, CertifiedTopK)
    search(topk, queries, 20)
    assert topk.fallbacks == 0
    everything = list(range(1, len(items) - 1))
    assert search(topk, queries[:1], 20, [everything])[0][0] == [20_000]
    assert topk.fallbacks == 1


@pytest.mark.parametrize("name", ["scan", "int8"])
@pytest.mark.parametrize("n_items", [3, 15, 16, 47, 5_000])
def test_a_scan_in_several_parts_at_once_finds_the_same(name: Backend, n_items: int) -> None:
    rng = np.random.default_rng(14)
    items = rng.integers(-2, 3, (n_items + 1, 8)).astype(np.float32)
    queries = rng.integers(-2, 3, (5, 2, 8)).astype(np.float32)
    mask = available(n_items + 1)
    topk = make_topk(name, items, mask, n_queries=2, scan_threads=3)
    assert [indices for indices, _ in search(topk, queries, 7)] == reference(items, mask, queries, 7, [[]] * 5)


def test_parts_of_a_table_are_whole_groups_and_leave_nothing_out() -> None:
    assert scan.part_bounds(100, 1) == [(0, 100)]
    assert scan.part_bounds(100, 3) == [(0, 48), (48, 96), (96, 100)]
    assert scan.part_bounds(5, 4) == [(0, 5)]


class Rounded:
    """A scan that is wrong by as much as it says, in the direction that hides the best item."""

    def __init__(self, inner: scan.FloatScan, honest: bool) -> None:
        self.n_groups, self._inner, self._honest = inner.n_groups, inner, honest

    def maxima(self, flat: NDArray[np.float32]) -> NDArray[np.float32]:
        maxima = self._inner.maxima(flat)
        best = maxima.argmax(axis=1)
        maxima[np.arange(len(flat)), best] -= 2.0
        return maxima

    def error(self, queries: NDArray[np.float32]) -> scan.ScanError:
        return scan.ScanError(np.full((len(queries), 1), 2.001 if self._honest else 0.0), np.ones((1, 1)), np.ones(1))


@pytest.mark.parametrize("honest", [True, False])
def test_a_scans_own_error_is_what_makes_its_answer_exact(honest: bool, large: Any) -> None:
    items, queries = large
    mask = available(len(items))
    rough = Rounded(scan.FloatScan(items, 1), honest)
    topk = CertifiedTopK(groups.GroupSelector(rough, items), items, mask, ExactTopK(items, mask))
    found = [indices for indices, _ in search(topk, queries, 1)]
    assert (found == reference(items, mask, queries, 1, [[]] * 3)) is honest


@pytest.mark.parametrize("n_queries", [1, 4, 5, 17])
def test_a_scan_of_few_queries_and_of_many_gives_the_largest_score_of_each_group(n_queries: int) -> None:
    # Whole numbers, so that no order of a sum rounds. 40 items are two groups and half of one.
    rng = np.random.default_rng(15)
    items = rng.integers(-3, 4, (40, 8)).astype(np.float32)
    queries = rng.integers(-3, 4, (n_queries, 8)).astype(np.float32)
    scores = queries @ items.T
    expected = np.stack([scores[:, :16].max(1), scores[:, 16:32].max(1), scores[:, 32:].max(1)], axis=1)
    assert np.array_equal(scan.FloatScan(items, 2).maxima(queries), expected)


def test_int8_scores_lie_within_the_error_that_the_scan_states() -> None:
    rng = np.random.default_rng(13)
    items = (rng.standard_normal((1_000, 32)) * rng.lognormal(0, 1, (1_000, 1))).astype(np.float32)
    queries = rng.standard_normal((9, 1, 32)).astype(np.float32)
    rough = int8_scan.Int8Scan(items, 1)
    scores = queries[:, 0].astype(np.float64) @ items.astype(np.float64).T
    exact = np.pad(scores, ((0, 0), (0, 8)), constant_values=-np.inf).reshape(9, 63, 16).max(axis=2)
    error = rough.error(queries)
    off = np.abs(rough.maxima(queries[:, 0]) - exact)[:, :62]  # the last group is filled up with zeros
    rows, places = np.divmod(np.arange(9 * 62), 62)
    assert (off.reshape(-1) <= error.of(rows, places)).all()
    assert (error.of(rows, places) <= error.largest()[rows] * (1 + 1e-12)).all()
    assert off.max() > error.largest().min() / 100  # it does round


def test_the_choice_follows_the_size_of_the_catalogue_and_can_be_forced() -> None:
    assert [choose("auto", n_items) for n_items in (1, 200_000, 200_001, 10**7)] == ["in-graph"] * 2 + ["scan"] * 2
    assert choose("int8", 10) == "int8"


@pytest.mark.parametrize("block", [1, 7, 64, 1_000_000])
def test_the_answer_does_not_depend_on_the_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    items = rng.standard_normal((1_000, 32)).astype(np.float32)
    items[400:800] = items[1:401]  # each of 400 vectors twice: ties across blocks
    queries = rng.standard_normal((6, 2, 32)).astype(np.float32)
    expected = reference(items, available(1_000), queries, 50, [[]] * 6)
    monkeypatch.setattr(blocked, "_BLOCK_ROWS", (block, block))
    assert [indices for indices, _ in search(ExactTopK(items, available(1_000)), queries, 50)] == expected


def test_the_answer_does_not_depend_on_the_batch(backend: Backend) -> None:
    rng = np.random.default_rng(6)
    items = rng.standard_normal((3_000, 48)).astype(np.float32)
    queries = rng.standard_normal((33, 1, 48)).astype(np.float32)
    topk = make_topk(backend, items, available(3_000))
    together = search(topk, queries, 20)
    assert together == [search(topk, queries[row : row + 1], 20)[0] for row in range(33)]


@pytest.mark.parametrize("block", [1, 10])
@pytest.mark.parametrize("k", [1, 2])
def test_near_ties_below_the_rounding_of_float32_are_ranked_exactly(
    block: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 1 + 2^-24 is not a float32: both items sum to 1 there, and the later one is truly larger.
    monkeypatch.setattr(blocked, "_BLOCK_ROWS", (block, block))
    items = np.array([[0, 0], [1, 0], [1, 2.0**-24]], np.float32)
    assert search(ExactTopK(items, available(3)), [[[1, 1]]], k)[0][0] == [2, 1][:k]


def test_scores_of_a_big_batch_are_held_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    promising = blocked._promising

    def spy(scores: NDArray[np.float32], *rest: Any) -> NDArray[np.intp]:
        sizes.append(len(scores))
        return promising(scores, *rest)

    monkeypatch.setattr(blocked, "_promising", spy)
    items = np.random.default_rng(8).standard_normal((40_000, 4)).astype(np.float32)
    ExactTopK(items, available(40_000)).search(np.ones((512, 4, 4), np.float32), 5, [NOTHING] * 512)
    assert max(sizes) * 512 * 4 <= blocked._SCORES_AT_ONCE
