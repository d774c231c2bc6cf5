from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loadtest.dataset import read_histories
from loadtest.errors import InputError
from loadtest.ids import read_item_ids
from loadtest.workload import DatasetWorkload, PowerLaw, PowerLawWorkload, Session, power_law_cdf

ITEMS = [f"i{n}" for n in range(100)]


def draw(n: int, *, seed: int = 3, run_id: str = "r", **law: float) -> list[Session]:
    return list(islice(PowerLawWorkload(ITEMS, PowerLaw(**law), seed=seed, run_id=run_id).sessions(), n))  # type: ignore[arg-type]


def test_power_law_cdf_is_worked_out_by_hand() -> None:
    # Weights 1, 1/2, 1/3, 1/4 are 12, 6, 4 and 3 twelfths, 25 in all.
    np.testing.assert_allclose(power_law_cdf(4, 1.0), [12 / 25, 18 / 25, 22 / 25, 1.0])


def test_the_same_seed_gives_the_same_sessions() -> None:
    assert draw(50) == draw(50)
    assert draw(50) != draw(50, seed=4)


def test_the_run_decides_ids_but_not_items() -> None:
    one, other = draw(50), draw(50, run_id="q")
    assert [session.item_ids for session in one] == [session.item_ids for session in other]
    assert {session.session_id for session in one}.isdisjoint(session.session_id for session in other)


def test_lengths_and_items_follow_their_power_laws() -> None:
    sessions = draw(4000, length_exponent=2.0, popularity_exponent=1.0, max_length=20)
    lengths = np.array([len(session.item_ids) for session in sessions])
    assert lengths.min() == 1
    assert lengths.max() <= 20
    expected_ones = power_law_cdf(20, 2.0)[0]
    assert abs((lengths == 1).mean() - expected_ones) < 0.03
    items = [item_id for session in sessions for item_id in session.item_ids]
    assert abs(items.count("i0") / len(items) - power_law_cdf(100, 1.0)[0]) < 0.03


def test_known_share_decides_who_has_a_user() -> None:
    assert all(session.user_id is None for session in draw(100, known_share=0.0))
    assert all(session.user_id is not None for session in draw(100, known_share=1.0))


def test_no_shared_users_gives_every_session_its_own() -> None:
    users = [session.user_id for session in draw(100, known_share=1.0, n_users=0)]
    assert len(set(users)) == 100


def write_dataset(folder: Path, **columns: Sequence[object]) -> Path:
    folder.mkdir()
    pq.write_table(pa.table(columns), folder / "interactions.parquet")
    return folder


def test_histories_are_ordered_by_position_with_ties_in_file_order(tmp_path: Path) -> None:
    folder = write_dataset(
        tmp_path / "set", user_id=[1, 1, 1, 2], item_id=[10, 11, 12, 13], timestamp=[0, 0, 0, 0], position=[2, 0, 0, 0]
    )
    histories = read_histories(folder)
    assert {user: history.item_ids for user, history in histories.items()} == {"1": ["11", "12", "10"], "2": ["13"]}


def test_histories_fall_back_to_the_timestamp_when_no_position_is_known(tmp_path: Path) -> None:
    folder = write_dataset(
        tmp_path / "set", user_id=["u", "u"], item_id=["a", "b"], timestamp=[9, 5], position=[None, None]
    )
    assert read_histories(folder)["u"].item_ids == ["b", "a"]


def test_a_partly_unknown_order_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "set", user_id=["u", "u"], item_id=["a", "b"], timestamp=[9, None])
    with pytest.raises(InputError, match="timestamp orders the events but is null in 1 rows"):
        read_histories(folder)


def test_a_dataset_without_sessions_is_walked_by_its_last_events(tmp_path: Path) -> None:
    folder = write_dataset(
        tmp_path / "set", user_id=["u"] * 4 + ["v"], item_id=["a", "b", "c", "d", "e"], position=[0, 1, 2, 3, 0]
    )
    visits = {
        (session.past, session.item_ids)
        for session in islice(DatasetWorkload(folder, held_out=2, seed=1, run_id="r").sessions(), 2)
    }
    assert visits == {(("a", "b"), ("c", "d")), ((), ("e",))}


def test_a_dataset_with_sessions_is_walked_by_its_last_sessions(tmp_path: Path) -> None:
    folder = write_dataset(
        tmp_path / "set", user_id=["u"] * 4, item_id=["a", "b", "c", "d"], session_id=["1", "2", "2", "2"]
    )
    session = next(DatasetWorkload(folder, held_out=2, seed=1, run_id="r").sessions())
    assert (session.past, session.item_ids) == (("a",), ("b", "c", "d"))


def test_a_second_lap_over_a_dataset_has_new_users(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "set", user_id=["u", "u"], item_id=["a", "b"])
    first, second = islice(DatasetWorkload(folder, held_out=1, seed=1, run_id="r").sessions(), 2)
    assert first.item_ids == second.item_ids
    assert first.user_id != second.user_id
    assert first.session_id != second.session_id


def test_item_ids_of_a_text_file_keep_their_order(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("b\n\na\n")
    assert read_item_ids(tmp_path / "ids.txt") == ["b", "a"]


def test_item_ids_of_an_artefact_come_by_popularity_without_unavailable_ones(tmp_path: Path) -> None:
    table = {"item_id": ["a", "b", "c", "d"], "popularity": [1, 9, 9, 99], "available": [True, True, True, False]}
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    assert read_item_ids(tmp_path) == ["b", "c", "a"]


@pytest.mark.parametrize("text", ["", "a b\n", "x" * 129])
def test_item_ids_the_service_would_refuse_are_refused_here(tmp_path: Path, text: str) -> None:
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(InputError, match=r"ids\.txt"):
        read_item_ids(tmp_path / "ids.txt")


def test_a_law_that_cannot_be_drawn_from_is_refused() -> None:
    with pytest.raises(InputError, match="max_length"):
        PowerLaw(max_length=0)
