from pathlib import Path

import pytest

from models.data.dataset import read_dataset
from models.data.folder import write_dataset
from models.data.importers.kuaisar import read_kuaisar
from models.data.splits import global_time
from models.errors import DatasetError
from models.ranker_examples import ranking_data

REC = "user_id,item_id,playing_time,duration_ms,time,timestamp,click,forward,like,follow,search,search_item_related\n"
SRC = (
    "user_id,search_session_id,search_session_time,search_session_timestamp,keyword,search_source,item_id,click_cnt,"
    "item_type\n"
)
ITEMS = (
    "item_id,caption,author_id,item_type,upload_time,upload_type,"
    "first_level_category_id,first_level_category_name,first_level_category_name_en,"
    "second_level_category_id,second_level_category_name,second_level_category_name_en,"
    "third_level_category_id,third_level_category_name,third_level_category_name_en,"
    "fourth_level_category_id,fourth_level_category_name,fourth_level_category_name_en\n"
)


def _rec(user: object, item: object, time: str, click: object) -> str:
    return f"{user},{item},1200.0,9000.0,{time},1684742000000.0,{click},0,0,0,0,0\n"


def _src(user: object, item: object, time: str, clicks: object) -> str:
    return f'{user},7,{time},1684763932919.0,"[20, 34, 3]",USER_INPUT,{item},{clicks},VIDEO\n'


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "KuaiSAR_final"
    folder.mkdir()
    (folder / "rec_inter.csv").write_text(
        REC + _rec(1, 10, "2023-05-22 15:53:20", 1) + _rec(1, 20, "2023-05-22 15:54:20", 0)
    )
    (folder / "src_inter.csv").write_text(
        SRC + _src(1, 30, "2023-05-22 21:58:52", 3) + _src(1, 10, "2023-05-22 21:58:52", 0)
    )
    (folder / "item_features.csv").write_text(
        ITEMS
        + '10,"[1, 213, 24]",5,NORMAL,2023-04-22,Import,9,搞笑,Funny,136,搞笑段子,Funny joke,0,空,empty,0,空,empty\n'
        + "20,[],0,NORMAL,1970-01-01,LongImport,0,空,empty,0,空,empty,0,空,empty,0,空,empty\n"
    )
    return folder


def test_both_services_become_scenarios_and_beijing_time_becomes_utc(raw: Path) -> None:
    found = read_kuaisar(raw)
    assert found.rejected == []
    assert found.impressions is not None
    # 15:53:20 in Beijing is 07:53:20 UTC, 1684742000 s; the search lies 6 h, 5 min and 32 s later
    assert found.impressions.to_pylist() == [
        {"user_id": "1", "item_id": "10", "timestamp": 1684742000, "scenario": "recommendation", "label": 1},
        {"user_id": "1", "item_id": "20", "timestamp": 1684742060, "scenario": "recommendation", "label": 0},
        {"user_id": "1", "item_id": "30", "timestamp": 1684763932, "scenario": "search", "label": 1},
        {"user_id": "1", "item_id": "10", "timestamp": 1684763932, "scenario": "search", "label": 0},
    ]
    assert found.interactions.column("item_id").to_pylist() == ["10", "30"]
    assert "label" not in found.interactions.column_names


def test_items_have_their_category_path_and_those_of_search_alone_have_no_text(raw: Path) -> None:
    found = read_kuaisar(raw)
    assert found.items is not None
    assert found.items.to_pylist() == [
        {"item_id": "10", "caption": "[1, 213, 24]", "category": "Funny > Funny joke", "author_id": "5"},
        {"item_id": "20", "caption": "[]", "category": None, "author_id": "0"},
        {"item_id": "30", "caption": None, "category": None, "author_id": None},
    ]


def test_every_row_that_cannot_be_read_is_reported(raw: Path) -> None:
    with (raw / "rec_inter.csv").open("a") as file:
        file.write(_rec(1, 10, "", 1) + _rec(1, 10, "yesterday", 1) + _rec("", 10, "2023-05-22 15:53:20", 1) + "1,10\n")
    with (raw / "src_inter.csv").open("a") as file:
        file.write(_src(1, 10, "2023-05-22 21:58:52", "many"))
    assert [(row["file"], row["line"], row["reason"]) for row in read_kuaisar(raw).rejected] == [
        ("rec_inter.csv", 4, "timestamp is missing"),
        ("rec_inter.csv", 5, "timestamp 'yesterday' is not a time in iso"),
        ("rec_inter.csv", 6, "user_id is missing"),
        ("rec_inter.csv", 7, "2 fields, expected 12 as in the header"),
        ("src_inter.csv", 4, "click_cnt 'many' is not a number"),
    ]


def test_what_was_shown_to_those_who_never_clicked_is_left_out_and_counted(raw: Path) -> None:
    with (raw / "rec_inter.csv").open("a") as file:
        file.write(_rec(2, 10, "2023-05-22 15:53:20", 0) + _rec(2, 20, "2023-05-22 15:53:20", 0))
    found = read_kuaisar(raw)
    assert found.impressions is not None
    assert set(found.impressions.column("user_id").to_pylist()) == {"1"}
    assert found.notes == ("2 impressions of users or scenarios without a click were left out",)


def test_what_is_missing_is_named(raw: Path) -> None:
    (raw / "rec_inter.csv").write_text("user_id,video_id,time,click\n")
    with pytest.raises(DatasetError, match=r"rec_inter\.csv: no column 'item_id', found user_id, video_id"):
        read_kuaisar(raw)
    (raw / "rec_inter.csv").write_text(REC + _rec(1, 10, "2023-05-22 15:53:20", 0))
    (raw / "src_inter.csv").write_text(SRC + _src(1, 10, "2023-05-22 15:53:20", 0))
    with pytest.raises(DatasetError, match=r"rec_inter\.csv, .*src_inter\.csv: no row of 2 is a click"):
        read_kuaisar(raw)
    (raw / "src_inter.csv").unlink()
    with pytest.raises(DatasetError, match=r"src_inter\.csv: cannot be read"):
        read_kuaisar(raw)


def test_a_ranker_learns_from_what_was_shown(raw: Path, tmp_path: Path) -> None:
    with (raw / "rec_inter.csv").open("a") as file:
        for minute in range(10, 30):
            file.write(_rec(1, 10 if minute % 2 else 20, f"2023-05-23 10:{minute}:00", minute % 2))
    found = read_kuaisar(raw)
    write_dataset(tmp_path / "set", found.interactions, found.items, impressions=found.impressions)
    dataset = read_dataset(tmp_path / "set")
    data = ranking_data(tmp_path / "set", dataset, global_time(dataset), max_seq_len=3, n_test_negatives=1, seed=0)
    assert data.scenario_names == ("recommendation", "search")
    (search,) = [row for row in range(len(data.train)) if data.train.scenario_index[row] == 1]
    shown = data.train.candidates[search].tolist()
    assert [dataset.item_ids[item - 1] for item in shown] == ["30", "10"]  # one search, both of its items
    assert data.train.labels[search].tolist() == [1, 0]
    assert data.train.item_seq[search].tolist() == [0, 0, 1]  # what was recommended and clicked before it
