from pathlib import Path

import pytest

from models.data.importers.movielens import read_movielens
from models.errors import DatasetError

CSV_RATINGS = "userId,movieId,rating,timestamp\n1,10,4.5,1112486027\n1,20,3.0,1112484676\n"


def test_dat_files_give_ratings_titles_genres_and_people(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_bytes(b"1::1193::5::978300760\n2::661::3::978302109\r\n")
    (tmp_path / "movies.dat").write_bytes(
        b"661::James and the Giant Peach (1996)::Animation|Children's\n1193::Mis\xe9rables, Les :: part (1995)::Drama\n"
    )
    (tmp_path / "users.dat").write_bytes(b"1::F::1::10::48067\n2::M::56::16::70072\n")
    found = read_movielens(tmp_path)

    assert found.rejected == []
    assert found.interactions.to_pylist() == [
        {"user_id": "1", "item_id": "1193", "timestamp": 978300760, "rating": 5.0},
        {"user_id": "2", "item_id": "661", "timestamp": 978302109, "rating": 3.0},
    ]
    assert found.items is not None
    assert found.items.to_pylist() == [
        {"item_id": "661", "title": "James and the Giant Peach (1996)", "category": "Animation|Children's"},
        {"item_id": "1193", "title": "Misérables, Les :: part (1995)", "category": "Drama"},
    ]
    assert found.users is not None
    assert found.users.to_pylist()[1] == {
        "user_id": "2", "gender": "M", "age": "56", "occupation": "16", "zip_code": "70072"
    }  # fmt: skip


def test_a_recoded_copy_keeps_its_accents(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text("1::1::5::978300760\n")
    (tmp_path / "movies.dat").write_text("1::Amélie (2001)::Comedy\n", encoding="utf-8")
    found = read_movielens(tmp_path)
    assert found.items is not None
    assert found.items.column("title").to_pylist() == ["Amélie (2001)"]
    assert found.users is None


def test_csv_files_give_ratings_titles_and_genres(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text(CSV_RATINGS)
    (tmp_path / "movies.csv").write_text(
        'movieId,title,genres\n10,"American President, The (1995)",Comedy|Drama\n20,Short,(no genres listed)\n'
    )
    found = read_movielens(tmp_path)

    assert found.rejected == []
    assert found.interactions.to_pylist()[0] == {
        "user_id": "1", "item_id": "10", "timestamp": 1112486027, "rating": 4.5
    }  # fmt: skip
    assert found.items is not None
    assert found.items.to_pylist() == [
        {"item_id": "10", "title": "American President, The (1995)", "category": "Comedy|Drama"},
        {"item_id": "20", "title": "Short", "category": None},
    ]


def test_every_row_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_bytes(
        b"1::1193::5::978300760\n\n1::1193::5\n1::::5::978300760\n1::2::five::978300760\n1::2::5::978300760000\n"
    )
    (tmp_path / "movies.dat").write_bytes(b"1::A::Drama\n1::B::Drama\n")
    (tmp_path / "users.dat").write_bytes(b"1::F::1::10::48067\n1::M::1::10::48067\n")
    found = read_movielens(tmp_path)

    assert found.interactions.num_rows == 1
    assert [(row["file"], row["line"], row["reason"]) for row in found.rejected] == [
        ("ratings.dat", 3, "3 fields between '::', expected 4"),
        ("ratings.dat", 4, "item_id is missing"),
        ("ratings.dat", 5, "rating 'five' is not a number"),
        ("ratings.dat", 6, "timestamp '978300760000' in s is outside 1970 to 2200"),
        ("movies.dat", 2, "item_id '1' is a repeat, first in line 1"),
        ("users.dat", 2, "user_id '1' is a repeat"),
    ]
    assert found.rejected[2]["text"] == "1::2::five::978300760"


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"neither ratings.dat nor ratings.csv"):
        read_movielens(tmp_path)
    (tmp_path / "ratings.csv").write_text(CSV_RATINGS)
    with pytest.raises(DatasetError, match=r"movies.csv: cannot be read"):
        read_movielens(tmp_path)
    (tmp_path / "ratings.csv").write_text("user,movieId,rating,timestamp\n")
    with pytest.raises(DatasetError, match=r"ratings.csv: no column 'userId', found user, movieId"):
        read_movielens(tmp_path)
