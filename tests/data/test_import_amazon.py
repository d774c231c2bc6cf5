import gzip
import json
from pathlib import Path

import pytest

from models.data.importers.amazon import read_amazon
from models.errors import DatasetError

REVIEW_2014 = {
    "reviewerID": "A1YJEY40YUW4SE", "asin": "7806397051", "reviewerName": "Andrea", "helpful": [3, 4],
    "reviewText": "Very oily", "overall": 1.0, "summary": "Don't", "unixReviewTime": 1391040000,
}  # fmt: skip
REVIEW_2018 = {
    "overall": 5.0, "verified": True, "reviewTime": "09 1, 2016", "reviewerID": "A3CIUOJXQ5VDQ2", "asin": "B0000530HU",
    "style": {"Size:": " 7.0 oz"}, "reviewerName": "Shelly", "reviewText": "Fine", "unixReviewTime": 1472688000,
}  # fmt: skip
REVIEW_2023 = {
    "rating": 4.0, "title": "Such a lovely scent", "text": "Light", "images": [], "asin": "B00YQ6X8EO",
    "parent_asin": "B00YQ6X8E0", "user_id": "AGKHLEW2SOWHNMFQIJGBECAF7INQ", "timestamp": 1588687728923,
    "helpful_vote": 0, "verified_purchase": True,
}  # fmt: skip


def lines(path: Path, *objects: object) -> Path:
    text = "".join((value if isinstance(value, str) else json.dumps(value)) + "\n" for value in objects)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize(
    ("review", "expected"),
    [
        (REVIEW_2014, ("A1YJEY40YUW4SE", "7806397051", 1391040000, 1.0)),
        (repr(REVIEW_2014), ("A1YJEY40YUW4SE", "7806397051", 1391040000, 1.0)),
        (REVIEW_2018, ("A3CIUOJXQ5VDQ2", "B0000530HU", 1472688000, 5.0)),
        (REVIEW_2023, ("AGKHLEW2SOWHNMFQIJGBECAF7INQ", "B00YQ6X8E0", 1588687728, 4.0)),
    ],
    ids=["2014", "2014 as a Python literal", "2018", "2023"],
)
@pytest.mark.parametrize("name", ["reviews.json", "reviews.json.gz"])
def test_reviews_of_every_release_are_read(
    tmp_path: Path, review: object, expected: tuple[object, ...], name: str
) -> None:
    found = read_amazon(lines(tmp_path / name, review))
    assert [tuple(row.values()) for row in found.interactions.to_pylist()] == [expected]
    assert found.interactions.column_names == ["user_id", "item_id", "timestamp", "rating"]
    assert (found.items, found.users, found.rejected) == (None, None, [])


def test_metadata_of_2014_are_python_literals(tmp_path: Path) -> None:
    product = {
        "asin": "0205616461", "title": "Bio-Active Anti-Aging \\Serum &amp; More", "price": 24.5, "brand": "Mama",
        "categories": [["Beauty", "Skin Care", "Face"], ["Gifts"]], "description": 'Says "hi"\n<b>now</b>',
        "related": {},
    }  # fmt: skip
    found = read_amazon(
        lines(tmp_path / "r.json", REVIEW_2014), lines(tmp_path / "meta.json.gz", repr(product).replace("\\\\", "\\"))
    )
    assert found.rejected == []
    assert found.items is not None
    assert found.items.to_pylist() == [
        {
            "item_id": "0205616461",
            "title": "Bio-Active Anti-Aging \\Serum & More",
            "description": 'Says "hi" now',
            "category": "Beauty > Skin Care > Face",
            "brand": "Mama",
            "price": "24.5",
            "features": None,
        }
    ]


def test_metadata_of_2018(tmp_path: Path) -> None:
    product = {
        "category": ["Industrial", "Adhesives &amp; Tapes"], "description": ["Strong.", "", "Sticky."], "title": "Tape",
        "brand": "", "feature": ["5 m", "blue"], "rank": "1,000", "main_cat": "Tools", "price": "$3.99", "asin": "B01",
    }  # fmt: skip
    found = read_amazon(lines(tmp_path / "r.json", REVIEW_2018), lines(tmp_path / "m.json", product))
    assert found.items is not None
    assert list(found.items.to_pylist()[0].values()) == [
        "B01", "Tape", "Strong. Sticky.", "Industrial > Adhesives & Tapes", None, "$3.99", "5 m blue"
    ]  # fmt: skip


def test_metadata_of_2023(tmp_path: Path) -> None:
    product = {
        "main_category": "All Beauty", "title": "Howard LC0008", "average_rating": 4.8, "features": [],
        "description": [],
        "price": None, "store": "Howard Products", "categories": [], "details": {}, "parent_asin": "B01CUPMQZE",
    }  # fmt: skip
    found = read_amazon(lines(tmp_path / "r.jsonl", REVIEW_2023), lines(tmp_path / "m.jsonl", product))
    assert found.items is not None
    assert list(found.items.to_pylist()[0].values()) == [
        "B01CUPMQZE", "Howard LC0008", None, "All Beauty", "Howard Products", None, None
    ]  # fmt: skip


def test_every_line_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    reviews = lines(
        tmp_path / "r.json",
        REVIEW_2014,
        '{"reviewerID": "A", "asin"',
        "{'reviewerID': __import__('os').getcwd()}",
        "[1, 2]",
        "",
        {**REVIEW_2014, "asin": None},
        {**REVIEW_2014, "unixReviewTime": "soon"},
        {**REVIEW_2023, "user_id": "two words"},
        {**REVIEW_2018, "overall": None},
        {"something": "else"},
    )
    with reviews.open("ab") as stream:
        stream.write(b'{"reviewerID": "\xff"}\n')
    metadata = lines(
        tmp_path / "m.json", {"asin": "B1", "title": "one"}, {"asin": "B1", "title": "two"}, {"title": "x"}
    )
    found = read_amazon(reviews, metadata)

    assert found.interactions.num_rows == 1
    assert [row["line"] for row in found.rejected] == [2, 3, 4, 6, 7, 8, 9, 10, 11, 2, 3]
    reasons = [row["reason"] for row in found.rejected]
    assert reasons[0].startswith("is not JSON: ")
    assert reasons[1].startswith("is neither JSON nor a Python literal: ")
    assert reasons[2:8] == [
        "is a list, expected an object",
        "item_id is missing",
        "timestamp 'soon' is not a time in s",
        "user_id 'two words' is not an id: 1 to 128 characters of A-Z a-z 0-9 _ . : @ -",
        "rating is missing",
        "timestamp is missing",
    ]
    assert reasons[8].startswith("is not JSON: ")
    assert reasons[9:] == ["item_id 'B1' is a repeat, first in line 1", "item_id is missing"]
    assert found.rejected[0]["text"] == '{"reviewerID": "A", "asin"'
    assert found.items is not None
    assert found.items.column("title").to_pylist() == ["one"]


def test_a_file_of_another_kind_is_given_up_early(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="none of the first 1,000 rows can be read; line 1000: is not JSON"):
        read_amazon(lines(tmp_path / "r.json", *["user,item"] * 1001))


def test_a_file_without_a_readable_review_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"r.json: no interaction could be read"):
        read_amazon(lines(tmp_path / "r.json", "{"))


def test_a_cut_gzip_file_is_an_error(tmp_path: Path) -> None:
    whole = lines(tmp_path / "r.json.gz", *[REVIEW_2014] * 50).read_bytes()
    (tmp_path / "r.json.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"r.json.gz: cannot be read"):
        read_amazon(tmp_path / "r.json.gz")
