from pathlib import Path

import pytest

from models.data.importers.kuairand import read_kuairand
from models.errors import DatasetError

LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
)
VIDEOS = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,"
    "music_id,music_type,tag\n"
)


def _log(user: object, video: object, time_ms: object, click: object, tab: object) -> str:
    return f"{user},{video},20220421,400,{time_ms},{click},0,0,0,0,0,0,151024,104400,0,0,0,0,{tab}\n"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    data = tmp_path / "KuaiRand-Pure" / "data"
    data.mkdir(parents=True)
    (data / "log_standard_4_08_to_4_21_pure.csv").write_text(LOG + _log(0, 5, 1650485801301, 1, 1))
    (data / "log_standard_4_22_to_5_08_pure.csv").write_text(
        LOG + _log(0, 6, 1650585801999, 0, 1) + _log(0, 7, 1650585802000, 1, 0)
    )
    (data / "log_random_4_22_to_5_08_pure.csv").write_text(LOG + _log(0, 8, 1650585802000, 1, 1))
    (data / "video_features_basic_pure.csv").write_text(
        VIDEOS
        + '5,441,NORMAL,2020-07-08,ShortImport,1.0,17200.0,720.0,1280.0,989206467.0,4.0,"12,65"\n'
        + "6,442,AD,2020-07-08,ShortImport,1.0,,720.0,1280.0,,,\n"
    )
    return data.parent


def test_tabs_become_scenarios_of_what_was_shown_and_clicked(raw: Path) -> None:
    found = read_kuairand(raw)
    assert found.rejected == []
    assert found.impressions is not None
    assert found.impressions.to_pylist() == [
        {"user_id": "0", "item_id": "5", "timestamp": 1650485801, "scenario": "1", "label": 1},
        {"user_id": "0", "item_id": "6", "timestamp": 1650585801, "scenario": "1", "label": 0},
        {"user_id": "0", "item_id": "7", "timestamp": 1650585802, "scenario": "0", "label": 1},
    ]
    assert found.interactions.column("item_id").to_pylist() == ["5", "7"]


def test_videos_have_tags_and_an_author_where_the_files_tell(raw: Path) -> None:
    found = read_kuairand(raw)
    assert found.items is not None
    assert found.items.to_pylist() == [
        {"item_id": "5", "category": "12,65", "author_id": "441"},
        {"item_id": "6", "category": None, "author_id": "442"},
        {"item_id": "7", "category": None, "author_id": None},
    ]


def test_the_folder_of_the_files_themselves_is_taken_too(raw: Path) -> None:
    assert read_kuairand(raw / "data").interactions.num_rows == 2


def test_every_row_that_cannot_be_read_is_reported(raw: Path) -> None:
    with (raw / "data" / "log_standard_4_08_to_4_21_pure.csv").open("a") as file:
        file.write(_log(0, 5, 1, 2, 1) + _log(0, 5, "", 1, 1) + _log(0, 5, 1650485801301, 1, ""))
    reasons = [(row["line"], row["reason"]) for row in read_kuairand(raw).rejected]
    assert reasons == [(3, "is_click 2 is neither 0 nor 1"), (4, "timestamp is missing"), (5, "tab is missing")]


def test_what_is_missing_is_named(tmp_path: Path, raw: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"empty: no log_standard_\*\.csv in it nor in its data/"):
        read_kuairand(tmp_path / "empty")
    (raw / "data" / "video_features_basic_pure.csv").unlink()
    with pytest.raises(DatasetError, match=r"no video_features_basic_\*\.csv"):
        read_kuairand(raw)
