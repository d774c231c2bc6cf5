"""Interests of typical users as a knowledge folder: who inherits what, and what must not be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from knowledge_fakes import MakeDataset, RecordingEncoder
from rich.console import Console
from typer.testing import CliRunner

from models.__main__ import app
from models.data.dataset import Dataset, Sequences
from models.data.folder import read_tables
from models.data.splits import leave_one_out, user_disjoint
from models.errors import KnowledgeError
from models.knowledge.answers_folder import AnswerSet, Checked
from models.knowledge.batch import read_requests
from models.knowledge.encoders import HashEncoder
from models.knowledge.interests import build_interests, load_interests, nearest_rows, user_features


def answered(interests: dict[str, list[str]], **rest: Any) -> AnswerSet:
    told = {"paper": "eimf", "dataset": {"name": "hand"}, "split": "leave_one_out", "prompts": None}
    told |= {"models": {"some-llm": len(interests)}, "prompts_digest": "digest", **rest}
    names = {user: f"eimf:hand:user:{user}" for user in interests}
    return AnswerSet(
        {names[user]: Checked(names[user], texts, "some-llm", "p", "t") for user, texts in interests.items()}, told
    )


@pytest.fixture
def shoppers(make_dataset: MakeDataset) -> Dataset:
    """Two buy lamps, two buy chairs, one buys something without a title; the last two events are held out."""
    return make_dataset(
        {
            "lamp1": ["a", "b", "x", "x"],
            "lamp2": ["b", "a", "x", "x"],
            "chair1": ["c", "d", "x", "x"],
            "chair2": ["d", "c", "x", "x"],
            "other": ["x", "x", "x"],
        },
        {"a": "red lamp", "b": "blue lamp", "c": "green chair", "d": "oak chair", "x": None},
    )


ANSWERS = {"lamp1": ["light in the evening", "colours"], "chair2": ["somewhere to sit"]}


def test_users_inherit_the_interests_of_the_nearest_typical_user(
    shoppers: Dataset, tmp_path: Path, silent: Console
) -> None:
    split = leave_one_out(shoppers)
    told = build_interests(shoppers, split, answered(ANSWERS), tmp_path / "k", HashEncoder(), silent)
    knowledge = load_interests(tmp_path / "k", shoppers, "leave_one_out")
    # Typical users in the order of user_ids: chair2, lamp1.
    by_user = dict(zip(shoppers.user_ids, knowledge.exemplar_of_user.tolist(), strict=True))
    assert by_user == {"chair1": 0, "chair2": 0, "lamp1": 1, "lamp2": 1, "other": -1}
    assert knowledge.texts == ["somewhere to sit", "light in the evening", "colours"]
    assert knowledge.n_interests.tolist() == [1, 2]
    assert told["answers"]["n_used"] == 2
    assert told["answers"]["share_of_training_users"] == 0.4
    assert knowledge.provenance["test_only"] is True
    assert (knowledge.title_vectors[0] == 0).all()


def test_projected_texts_have_masks_and_a_row_for_nobody(shoppers: Dataset, tmp_path: Path, silent: Console) -> None:
    build_interests(shoppers, leave_one_out(shoppers), answered(ANSWERS), tmp_path / "k", HashEncoder(), silent)
    knowledge = load_interests(tmp_path / "k", shoppers, "leave_one_out")
    projected = knowledge.projected(3)
    assert projected.mask.tolist() == [[False, False], [True, False], [True, True]]
    assert projected.exemplar_of_user.tolist() == [1, 1, 2, 2, 0]
    assert (projected.interests[~projected.mask] == 0).all()
    titled = projected.items[1:5]
    assert (projected.items[[0, 5]] == 0).all()  # padding, and the item without a title
    assert np.square(titled).mean() == pytest.approx(1, abs=1e-5)
    # One map for all texts: distances between titles are those of the encoder, up to one factor.
    raw = knowledge.title_vectors[1:5]
    ratio = np.linalg.norm(titled[0] - titled[1:], axis=1) / np.linalg.norm(raw[0] - raw[1:], axis=1)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)


def test_answers_about_users_that_are_held_out_are_not_read(
    make_dataset: MakeDataset, tmp_path: Path, silent: Console
) -> None:
    dataset = make_dataset({f"u{n}": ["a", "b", "c"] for n in range(20)}, {"a": "red", "b": "blue", "c": "green"})
    split = user_disjoint(dataset)
    everyone = {user: [f"what {user} wants"] for user in dataset.user_ids}
    build_interests(dataset, split, answered(everyone), tmp_path / "k", HashEncoder(), silent)
    knowledge = load_interests(tmp_path / "k", dataset, "user_disjoint")
    held_out = {dataset.user_ids[row] for row in np.flatnonzero(split.train.lengths == 0)}
    assert len(held_out) == 4
    assert not held_out & {text.split()[1] for text in knowledge.texts}
    assert (knowledge.exemplar_of_user[split.train.lengths == 0] == -1).all()


@pytest.mark.parametrize(
    ("rest", "split", "message"),
    [
        ({"paper": "llm4sbr"}, "leave_one_out", "of llm4sbr of 'hand', expected eimf of 'hand'"),
        ({"split": "global_time"}, "leave_one_out", "split global_time, expected leave_one_out"),
        ({"split": None}, "user_disjoint", "split unknown, expected user_disjoint or leave_one_out"),
    ],
)
def test_answers_that_may_quote_what_is_held_out_are_refused(
    rest: dict[str, Any], split: str, message: str, make_dataset: MakeDataset, tmp_path: Path, silent: Console
) -> None:
    dataset = make_dataset({f"u{n}": ["a", "b", "c"] for n in range(10)}, {"a": "red", "b": "blue", "c": "green"})
    split_of = {"leave_one_out": leave_one_out, "user_disjoint": user_disjoint}[split](dataset)
    with pytest.raises(KnowledgeError, match=message):
        build_interests(dataset, split_of, answered({"u1": ["x"]}, **rest), tmp_path / "k", HashEncoder(), silent)


def test_knowledge_of_another_split_is_refused_and_titles_are_encoded_once(
    shoppers: Dataset, tmp_path: Path, silent: Console
) -> None:
    split, encoder = leave_one_out(shoppers), RecordingEncoder()
    build_interests(shoppers, split, answered(ANSWERS), tmp_path / "k", encoder, silent)
    with pytest.raises(KnowledgeError, match="expected 'user_disjoint'"):
        load_interests(tmp_path / "k", shoppers, "user_disjoint")
    build_interests(shoppers, split, answered(ANSWERS), tmp_path / "k", encoder, silent)
    assert sum("red lamp" in call for call in encoder.calls) == 1


def test_a_user_is_the_mean_of_its_titles_at_unit_length() -> None:
    titles = np.array([[1, 0], [0, 1], [0, 0]], dtype=np.float32)
    features = user_features(titles, Sequences.from_lists([[1, 2], [], [3], [1, 1, 2]]))
    np.testing.assert_allclose(features, [[0.5**0.5] * 2, [0, 0], [0, 0], [2 / 5**0.5, 1 / 5**0.5]], atol=1e-6)
    nearest, similarity = nearest_rows(features[[0, 3]], np.array([[0, 1], [1, 0]], dtype=np.float32))
    assert nearest.tolist() == [0, 1]  # a tie goes to the first
    np.testing.assert_allclose(similarity, [0.5**0.5, 2 / 5**0.5], atol=1e-6)


def test_one_command_writes_the_requests_about_typical_users(tmp_path: Path) -> None:
    runner = CliRunner()
    shop = tmp_path / "shop"
    assert runner.invoke(app, ["data", "sample-shop", str(shop), "--users", "120", "--items", "40"]).exit_code == 0
    out = tmp_path / "eimf.jsonl"
    command = ["knowledge", "exemplars", str(shop), "--out", str(out), "--share", "0.1", "--encoder", "hash"]
    done = runner.invoke(app, command)
    assert done.exit_code == 0, done.stderr
    requests = read_requests(out)
    users = set(read_tables(shop).interactions["user_id"].to_pylist())
    asked = [request.custom_id.split(":", 3)[3] for request in requests]
    assert 9 <= len(asked) <= 13
    assert set(asked) <= users
    origin = json.loads((tmp_path / "eimf.origin.json").read_bytes())
    assert origin["split"] == "leave_one_out"
    assert origin["typical_users"]["share"] == 0.1
