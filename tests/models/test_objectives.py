from __future__ import annotations

from typing import Any

import torch

from models import runs
from models.batches import TrainingHistories
from models.data.sequences import Sequences
from models.objectives import MaskedItem, NextItem


def _setting(make_config: Any, backbone: str) -> Any:
    config = make_config(model={"backbone": backbone})
    torch.manual_seed(5)
    model = runs.build_model(config, runs.load_inputs(config)).eval()
    histories = TrainingHistories(Sequences.from_lists([[1, 2, 3, 4], [6, 7]]), 6, torch.device("cpu"), None)
    return model, model.item_table(), histories.batch(torch.tensor([0, 1]))


def test_every_position_names_the_item_after_it(make_config: Any) -> None:
    model, table, batch = _setting(make_config, "sasrec")
    taught = NextItem(last_only=False)(model, table, batch)
    assert taught.targets.tolist() == [2, 3, 4, 7]
    assert taught.users.tolist() == [0, 0, 0, 1]
    queries = model.encode(table, batch.item_seq, batch.seq_len)[:, 0]
    torch.testing.assert_close(taught.students, queries, atol=1e-6, rtol=0)


def test_only_the_last_position_may_be_taught(make_config: Any) -> None:
    model, table, batch = _setting(make_config, "gru4rec")
    taught = NextItem(last_only=True)(model, table, batch)
    assert taught.targets.tolist() == [4, 7]
    assert taught.states.shape == (2, 16)


def test_a_masked_item_is_named_where_it_was_and_the_last_one_always(make_config: Any) -> None:
    model, table, batch = _setting(make_config, "bert4rec")
    torch.manual_seed(1)
    taught = MaskedItem(0.9999)(model, table, batch)
    # All items of both users masked at random, then the last of each; padding is never taught.
    assert taught.targets.tolist() == [1, 2, 3, 4, 6, 7, 4, 7]
    assert taught.users.tolist() == [0, 0, 0, 0, 1, 1, 0, 1]
    # The student does not see the last training item, it is asked for it as a request asks.
    queries = model.encode(table, batch.item_seq, batch.seq_len)[:, 0]
    torch.testing.assert_close(taught.students, queries, atol=1e-6, rtol=0)
    torch.testing.assert_close(taught.states[-2:], queries, atol=1e-6, rtol=0)


def test_about_six_in_ten_items_are_masked(make_config: Any) -> None:
    model, table, _ = _setting(make_config, "bert4rec")
    histories = TrainingHistories(Sequences.from_lists([[1, 2, 3, 4, 5]] * 400), 6, torch.device("cpu"), None)
    torch.manual_seed(2)
    taught = MaskedItem(0.6)(model, table, histories.batch(torch.arange(400)))
    assert abs((len(taught.targets) - 400) / 2000 - 0.6) < 0.05
