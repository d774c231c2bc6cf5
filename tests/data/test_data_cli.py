import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import models.data.cli
from models.data.cli import app
from models.data.dataset import read_dataset
from models.data.folder import read_tables


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def movielens(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,10,4.5,5\n1,20,3.0,x\n1,20,3.0,6\n2,20,1,7\n"
    )
    (folder / "movies.csv").write_text("movieId,title,genres\n10,Ten,Drama\n20,Twenty,\n")
    return folder


def test_an_import_with_rejected_rows_says_so_and_exits_with_3(tmp_path: Path, movielens: Path) -> None:
    found = run("import", "movielens", movielens, "--out", tmp_path / "ml")
    assert found.exit_code == 3
    assert "3 interactions and 2 items" in found.output
    assert "ratings.csv: 1 rows rejected" in found.output
    assert "ratings.csv:3: timestamp 'x' is not a time in s" in found.output
    (line,) = (tmp_path / "ml" / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "file": "ratings.csv", "line": 3, "reason": "timestamp 'x' is not a time in s", "text": "1::20::3.0::x"
    }  # fmt: skip
    assert [row.tolist() for row in read_dataset(tmp_path / "ml").sequences] == [[1, 2], [2]]


def test_an_import_where_every_row_is_read_exits_with_0(tmp_path: Path) -> None:
    raw = tmp_path / "c.tsv"
    raw.write_text("session\tsku\tat\n1\ta\t2014-04-07T09:10:00Z\n")
    arguments = [
        "--user",
        "session",
        "--item",
        "sku",
        "--session",
        "session",
        "--timestamp",
        "at",
        "--time-unit",
        "iso",
    ]
    found = run("import", "csv", raw, "--delimiter", "\\t", *arguments, "--out", tmp_path / "set")
    assert found.exit_code == 0, found.output
    assert not (tmp_path / "set" / "rejected.jsonl").exists()
    dataset = read_dataset(tmp_path / "set")
    assert dataset.session_ids is not None
    assert (dataset.user_ids, dataset.session_ids.tolist()) == (("1",), ["1"])


def test_amazon_files_are_imported(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"reviewerID": "A", "asin": "B", "overall": 5, "unixReviewTime": 9}\n')
    (tmp_path / "m.json").write_text("{'asin': 'B', 'title': 'Bee'}\n")
    found = run("import", "amazon", tmp_path / "r.json", "--metadata", tmp_path / "m.json", "--out", tmp_path / "set")
    assert found.exit_code == 0, found.output
    assert read_dataset(tmp_path / "set").item_titles() == ["Bee"]


def test_a_set_with_impressions_keeps_them_beside_the_clicks(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "common_features_train.csv").write_text("a,1,101\x02u1\x031\nb,1,101\x02u2\x031\n")
    features = "205\x02i{}\x031\x01301\x02top\x031"
    rows = [(1, "a", 1), (0, "a", 2), (0, "b", 1)]
    (raw / "sample_skeleton_train.csv").write_text(
        "".join(f"{n},{click},0,{common},2,{features.format(item)}\n" for n, (click, common, item) in enumerate(rows))
    )
    found = run("import", "ali-ccp", raw, "--out", tmp_path / "set")
    assert found.exit_code == 0, found.output
    assert "1 interactions and 2 items" in found.output
    assert "2 impressions" in found.output
    assert "1 impressions of users or scenarios without a click were left out" in found.output
    assert read_dataset(tmp_path / "set").scenario_names == ("top",)
    shown = read_tables(tmp_path / "set").impressions
    assert shown is not None
    assert shown.column("label").to_pylist() == [1, 0]


def test_a_dataset_is_replaced_only_when_asked(tmp_path: Path, movielens: Path) -> None:
    out = tmp_path / "ml"
    assert run("import", "movielens", movielens, "--out", out).exit_code == 3
    again = run("import", "movielens", movielens, "--out", out)
    assert again.exit_code == 1
    assert "--force" in again.output
    assert run("import", "movielens", movielens, "--out", out, "--force").exit_code == 3


def test_an_import_that_fails_writes_nothing(tmp_path: Path) -> None:
    found = run("import", "movielens", tmp_path, "--out", tmp_path / "ml")
    assert found.exit_code == 1
    assert "neither ratings.dat nor ratings.csv" in found.output
    assert list(tmp_path.iterdir()) == []


def test_shop_filter_and_stats_work_one_after_another(tmp_path: Path) -> None:
    shop, core = tmp_path / "shop", tmp_path / "core"
    assert run("sample-shop", shop, "--users", 80, "--items", 60, "--seed", 2).exit_code == 0
    assert run("sample-shop", shop).exit_code == 1

    found = run("filter", shop, core, "--user-core", 10, "--item-core", 8)
    assert found.exit_code == 0, found.output
    described = json.loads(run("stats", core, "--json").output)
    assert described["events_per_user"]["min"] >= 10
    assert described["events_per_occurring_item"]["min"] >= 8
    assert described["n_items_without_interactions"] == 0
    assert (core / "impressions.parquet").is_file()

    once = run("filter", shop, tmp_path / "once", "--user-core", 10, "--item-core", 8, "--single-pass")
    assert once.exit_code == 0
    assert json.loads(run("stats", tmp_path / "once", "--json").output)["n_interactions"] >= described["n_interactions"]

    table = run("stats", core).output
    assert "n_interactions" in table
    assert f"{described['n_interactions']:,}" in table


def test_oddities_stand_below_the_table(tmp_path: Path, movielens: Path) -> None:
    run("import", "movielens", movielens, "--out", tmp_path / "ml")
    assert "note: 2 users have fewer than 3 events" in run("stats", tmp_path / "ml").output


def test_ctrl_c_leaves_nothing_and_exits_with_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(models.data.cli, "generate", interrupted)
    found = run("sample-shop", tmp_path / "shop")
    assert found.exit_code == 130
    assert "interrupted: nothing was written" in found.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [["stats"], ["filter"], ["sample-shop"], ["import", "movielens"], ["import", "amazon"], ["import", "csv"]],
)
def test_every_command_has_an_example_in_its_help(command: list[str]) -> None:
    found = run(*command, "--help")
    assert found.exit_code == 0
    assert f"python -m models data {' '.join(command)}" in " ".join(found.output.replace("│", " ").split())
