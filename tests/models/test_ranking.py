from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.contracts import EncoderInputs
from models.data.sequences import Sequences
from models.data.splits import EvalCases
from models.ranking import draw_negatives, rank_against, rank_cases


class LastItem(nn.Module):
    """Query = the last item's row. Table rows are chosen so that scores are read off by eye."""

    def describe_inputs(self) -> EncoderInputs:
        return EncoderInputs("last item", None, "left", "clean", 4, None, 2, 1)

    def item_table(self) -> Tensor:
        return torch.tensor([[0, 0], [1, 0], [3, 0], [2, 0], [2, 0], [0, 1]], dtype=torch.float32)

    def encode_vectors(self, vectors: Tensor, item_seq: Tensor, seq_len: Tensor) -> Tensor:
        return vectors[:, -1:, :]


def _cases(inputs: list[list[int]], targets: list[int]) -> EvalCases:
    return EvalCases(np.arange(len(targets)), Sequences.from_lists(inputs), np.array(targets), None)


def test_ranks_count_better_items_and_equal_ones_with_a_lower_index() -> None:
    # After item 1 the scores of items 1..5 are 1, 3, 2, 2, 0; item 1 itself is seen.
    ranking = rank_cases(LastItem(), _cases([[1], [1], [1], [1]], [2, 3, 4, 5]), top=4)
    assert ranking.ranks.tolist() == [0, 1, 2, 3]
    assert ranking.items[0].tolist() == [2, 3, 4, 5]
    assert ranking.scores[0].tolist() == [3, 2, 2, 0]


def test_seen_items_leave_the_list_only_when_filtered() -> None:
    cases = _cases([[2, 1]], [3])
    assert rank_cases(LastItem(), cases).ranks.tolist() == [0]
    assert rank_cases(LastItem(), cases, filter_seen=False).ranks.tolist() == [1]


def test_a_target_already_in_the_history_is_a_miss_and_not_dropped() -> None:
    assert rank_cases(LastItem(), _cases([[2, 1]], [2])).ranks[0] >= 5


def test_padding_is_never_ranked() -> None:
    ranking = rank_cases(LastItem(), _cases([[5]], [1]), top=5, filter_seen=False)
    assert 0 not in ranking.items[0]


def test_ranks_among_negatives_count_ties_against_the_target() -> None:
    ranks = rank_against(LastItem(), _cases([[1], [1]], [3, 2]), np.array([[2, 4], [3, 5]]))
    assert ranks.tolist() == [2, 0]


def test_negatives_are_fixed_by_their_seed_distinct_and_never_in_the_case() -> None:
    cases = _cases([[1, 2], [3]], [3, 9])
    drawn = draw_negatives(cases, n_items=10, n_negatives=6, seed=7)
    assert (drawn == draw_negatives(cases, n_items=10, n_negatives=6, seed=7)).all()
    for row, taken in zip(drawn.tolist(), [{1, 2, 3}, {3, 9}], strict=True):
        assert len(set(row)) == 6
        assert not taken & set(row)


def test_too_few_items_for_the_negatives_is_said() -> None:
    with pytest.raises(ValueError, match="7 items are left, 8 negatives"):
        draw_negatives(_cases([[1, 2]], [3]), n_items=10, n_negatives=8, seed=7)


def test_each_of_several_targets_has_its_rank() -> None:
    # After item 1 the scores of items 2..5 are 3, 2, 2, 0.
    cases = EvalCases(np.arange(2), Sequences.from_lists([[1], [1]]), np.array([5, 2, 3]), None, np.array([2, 1]))
    assert rank_cases(LastItem(), cases).ranks.tolist() == [3, 0, 1]
