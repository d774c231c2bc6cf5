from pathlib import Path

import pytest

from models.data.importers.ali_ccp import read_ali_ccp
from models.errors import DatasetError


def _features(**fields: object) -> str:
    return "\x01".join(f"{field[1:]}\x02{feature}\x031.0" for field, feature in fields.items())


def _sample(number: int, click: object, common: str, **fields: object) -> str:
    return f"{number},{click},0,{common},{len(fields)},{_features(**fields)}\n"


def _common(index: str, **fields: object) -> str:
    return f"{index},{len(fields)},{_features(**fields)}\n"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "common_features_train.csv").write_text(
        _common("bacf", _121="3438658", _101="31319", _109_14="4529") + _common("c0de", _101="31320")
    )
    (tmp_path / "sample_skeleton_train.csv").write_text(
        _sample(1, 1, "bacf", _205="4113", _206="84", _207="85", _216="98", _301="9351665")
        + _sample(2, 0, "bacf", _205="4114", _206="84", _301="9351666")
        + _sample(3, 1, "c0de", _301="9351666", _205="4113", _206="84")
    )
    (tmp_path / "common_features_test.csv").write_text(_common("beef", _101="31319"))
    (tmp_path / "sample_skeleton_test.csv").write_text(_sample(1, 0, "beef", _205="4115", _301="9351665"))
    return tmp_path


def test_samples_meet_the_user_of_their_common_features(raw: Path) -> None:
    found = read_ali_ccp(raw)
    assert found.rejected == []
    assert found.impressions is not None
    assert found.impressions.to_pylist() == [
        {"user_id": "31319", "item_id": "4113", "scenario": "9351665", "label": 1, "split": "train"},
        {"user_id": "31319", "item_id": "4114", "scenario": "9351666", "label": 0, "split": "train"},
        {"user_id": "31320", "item_id": "4113", "scenario": "9351666", "label": 1, "split": "train"},
        {"user_id": "31319", "item_id": "4115", "scenario": "9351665", "label": 0, "split": "test"},
    ]
    assert found.interactions.column("user_id").to_pylist() == ["31319", "31320"]
    assert "timestamp" not in found.interactions.column_names  # the set has none


def test_items_are_listed_once_with_what_their_samples_say(raw: Path) -> None:
    found = read_ali_ccp(raw)
    assert found.items is not None
    assert found.items.to_pylist() == [
        {"item_id": "4113", "category": "84", "shop": "85", "brand": "98"},
        {"item_id": "4114", "category": "84", "shop": None, "brand": None},
        {"item_id": "4115", "category": None, "shop": None, "brand": None},
    ]


def test_the_training_files_are_enough(raw: Path) -> None:
    (raw / "sample_skeleton_test.csv").unlink()
    found = read_ali_ccp(raw)
    assert found.impressions is not None
    assert set(found.impressions.column("split").to_pylist()) == {"train"}


def test_every_row_that_cannot_be_read_is_reported(raw: Path) -> None:
    with (raw / "common_features_train.csv").open("a") as file:
        file.write(_common("nobody", _121="1"))
    with (raw / "sample_skeleton_train.csv").open("a") as file:
        file.write(_sample(4, 1, "lost", _205="4113", _301="9351665") + _sample(5, 1, "bacf", _205="4113"))
        file.write(_sample(6, 1, "bacf", _301="9351665") + _sample(7, 2, "bacf", _205="1", _301="9351665") + "8,1,0\n")
    assert [(row["file"], row["line"], row["reason"]) for row in read_ali_ccp(raw).rejected] == [
        ("common_features_train.csv", 3, "user_id (field 101) is missing"),
        ("sample_skeleton_train.csv", 4, "common features 'lost' are not in common_features_train.csv"),
        ("sample_skeleton_train.csv", 5, "scenario (field 301) is missing"),
        ("sample_skeleton_train.csv", 6, "item_id (field 205) is missing"),
        ("sample_skeleton_train.csv", 7, "click 2 is neither 0 nor 1"),
        ("sample_skeleton_train.csv", 8, "3 fields between commas, expected 6"),
    ]


def test_what_is_missing_is_named(raw: Path) -> None:
    (raw / "common_features_train.csv").unlink()
    with pytest.raises(DatasetError, match=r"common_features_train\.csv: cannot be read"):
        read_ali_ccp(raw)
    (raw / "sample_skeleton_train.csv").unlink()
    with pytest.raises(
        DatasetError, match=r"sample_skeleton_train\.csv is missing, expected an unpacked Ali-CCP folder"
    ):
        read_ali_ccp(raw)
