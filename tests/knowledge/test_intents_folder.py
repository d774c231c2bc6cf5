"""Intents of session prefixes as a knowledge folder: aligned with their prefixes, and no later click in any of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from knowledge_fakes import MakeDataset
from rich.console import Console
from typer.testing import CliRunner

from models.__main__ import app
from models.data.dataset import Dataset
from models.data.splits import leave_one_out
from models.errors import KnowledgeError
from models.knowledge.answers_folder import AnswerSet, Checked
from models.knowledge.batch import read_requests
from models.knowledge.encoders import HashEncoder
from models.knowledge.intents import build_intents, load_intents, shuffled_intents
from models.knowledge.prompts import PAPERS, Options, texts_digest

Said = dict[str, tuple[str, str]]


def answered(dataset: Dataset, said: Said, goods: str = "products", **rest: Any) -> AnswerSet:
    """(long, short) answers to the prompts of prefixes, by what these are about."""
    questions = PAPERS["llm4sbr"].questions(
        dataset, leave_one_out(dataset), Options(goods=goods, prefixes=frozenset(said))
    )
    answers = {}
    for question in questions:
        name = f"llm4sbr:{dataset.name}:{question.kind}:{question.about}"
        text = said[question.about][question.kind == "short"]
        answers[name] = Checked(name, text, "some-llm", "p", texts_digest([question.text]))
    told = {"paper": "llm4sbr", "dataset": {"name": dataset.name}, "split": None, "prompts": None, "options": None}
    return AnswerSet(answers, told | {"models": {"some-llm": len(answers)}, "prompts_digest": "digest", **rest})


@pytest.fixture
def shoppers(make_dataset: MakeDataset) -> Dataset:
    return make_dataset(
        {"u1": ["a", "b", "c", "d", "a"], "u2": ["b", "a", "d", "c"]},
        {"a": "red lamp", "b": "blue lamp", "c": "green chair", "d": "oak chair", "x": None},
    )


SAID: Said = {"user:u1:prefix:2": ("green chair", "red lamp"), "user:u2:prefix:1": ("oak chair", "blue lamp")}


def test_each_intent_stands_with_the_prefix_it_was_asked_about(
    shoppers: Dataset, tmp_path: Path, silent: Console
) -> None:
    told = build_intents(shoppers, answered(shoppers, SAID), tmp_path / "k", HashEncoder(), silent, r=1)
    found = load_intents(tmp_path / "k", shoppers)
    assert [shoppers.user_ids[user] for user in found.users] == ["u1", "u2"]
    assert found.cuts.tolist() == [2, 1]
    assert found.texts == [["green chair", "red lamp"], ["oak chair", "blue lamp"]]
    # An answer that is a title lies at that title; items are a, b, c, d as 1, 2, 3, 4.
    assert found.neighbours.tolist() == [[[3], [1]], [[4], [2]]]
    np.testing.assert_allclose(found.vectors[0, 0], found.title_vectors[3], atol=2e-3)
    np.testing.assert_allclose(found.localised_titles, found.title_vectors, atol=2e-3)  # each is its own neighbour
    assert (found.title_vectors[[0, 5]] == 0).all()
    assert found.provenance["test_only"] is True
    assert told["localisation"] == {"r": 1, "weights": "cosine"}
    assert (told["answers"]["n_prefixes"], told["answers"]["n_without_other_view"]) == (2, 0)
    with np.load(tmp_path / "k" / "intents.npz") as arrays:
        assert arrays["vectors"].dtype == np.float16


def test_an_answer_to_a_prompt_that_shows_a_later_click_is_refused(
    shoppers: Dataset, tmp_path: Path, silent: Console
) -> None:
    answers = answered(shoppers, {**SAID, "user:u1:prefix:1": ("a", "b")})
    longer = answers.answers["llm4sbr:hand:short:user:u1:prefix:2"].text_digest
    name = "llm4sbr:hand:short:user:u1:prefix:1"
    peeped = dataclasses.replace(answers.answers[name], text_digest=longer)
    with pytest.raises(KnowledgeError, match=f"{name}: answers another prompt than its prefix gives"):
        build_intents(
            shoppers,
            AnswerSet({**answers.answers, name: peeped}, answers.provenance),
            tmp_path / "k",
            HashEncoder(),
            silent,
            r=1,
        )
    assert not (tmp_path / "k").exists()


def test_prompts_may_call_the_goods_otherwise_and_cut_titles_otherwise_if_that_is_said(
    shoppers: Dataset, tmp_path: Path, silent: Console
) -> None:
    answers = answered(shoppers, SAID, goods="furniture")
    with pytest.raises(KnowledgeError, match="goods 'products', titles of 90 characters"):
        build_intents(shoppers, answers, tmp_path / "k", HashEncoder(), silent, r=1)
    build_intents(shoppers, answers, tmp_path / "k", HashEncoder(), silent, r=1, goods="furniture", title_chars=(5, 90))
    recorded = AnswerSet(answers.answers, {**answers.provenance, "options": {"goods": "furniture"}})
    build_intents(shoppers, recorded, tmp_path / "k", HashEncoder(), silent, r=1)


def test_a_prefix_with_one_view_alone_is_left_out(shoppers: Dataset, tmp_path: Path, silent: Console) -> None:
    answers = answered(shoppers, SAID)
    one_view = {name: answer for name, answer in answers.answers.items() if ":long:user:u2" not in name}
    told = build_intents(shoppers, AnswerSet(one_view, answers.provenance), tmp_path / "k", HashEncoder(), silent, r=1)
    assert (told["answers"]["n_prefixes"], told["answers"]["n_without_other_view"]) == (1, 1)


@pytest.mark.parametrize(
    ("said", "rest", "message"),
    [
        (SAID, {"paper": "eimf"}, "of eimf of 'hand', expected llm4sbr"),
        ({}, {}, "none of 0 answers comes with that of the other view"),
    ],
)
def test_answers_of_another_kind_are_refused(
    said: Said, rest: dict[str, Any], message: str, shoppers: Dataset, tmp_path: Path, silent: Console
) -> None:
    with pytest.raises(KnowledgeError, match=message):
        build_intents(shoppers, answered(shoppers, said, **rest), tmp_path / "k", HashEncoder(), silent, r=1)


def test_intents_of_another_dataset_or_of_moved_clicks_are_refused(
    shoppers: Dataset, make_dataset: MakeDataset, tmp_path: Path, silent: Console
) -> None:
    build_intents(shoppers, answered(shoppers, SAID), tmp_path / "k", HashEncoder(), silent, r=1)
    with pytest.raises(KnowledgeError, match="made from dataset 'hand'"):
        load_intents(tmp_path / "k", dataclasses.replace(shoppers, digest="other"))
    moved = dataclasses.replace(
        shoppers, sequences=dataclasses.replace(shoppers.sequences, items=shoppers.sequences.items[::-1].copy())
    )
    with pytest.raises(KnowledgeError, match=r"prefix \('u1', '', 2\) is not the one that was asked about"):
        load_intents(tmp_path / "k", moved)


def test_shuffled_intents_are_the_same_ones_of_other_prefixes(
    shoppers: Dataset, tmp_path: Path, silent: Console
) -> None:
    said = {f"user:u1:prefix:{cut}": (f"long {cut}", f"short {cut}") for cut in (1, 2)}
    said["user:u2:prefix:1"] = ("long 3", "short 3")
    build_intents(shoppers, answered(shoppers, said), tmp_path / "k", HashEncoder(), silent, r=1)
    found = load_intents(tmp_path / "k", shoppers)
    dealt = shuffled_intents(found, seed=3)
    assert dealt.cuts.tolist() == found.cuts.tolist()
    assert dealt.texts != found.texts
    assert sorted(dealt.texts) == sorted(found.texts)  # both views of a prefix stay together
    for text, vectors in zip(dealt.texts, dealt.vectors, strict=True):
        np.testing.assert_array_equal(vectors, found.vectors[found.texts.index(text)])
    assert dealt.provenance["shuffled"] == {"what": ["intents"], "seed": 3}


def test_a_sample_is_drawn_asked_about_and_becomes_knowledge_by_commands(tmp_path: Path) -> None:
    run, sample_shop = CliRunner().invoke, tmp_path / "shop"
    made = ["data", "sample-shop", str(sample_shop), "--users", "60", "--items", "40"]
    assert run(app, made).exit_code == 0
    asked = tmp_path / "sbr.jsonl"
    drawn = ["knowledge", "prefixes", str(sample_shop), "--calls", "40", "--out", str(asked), "--encoder", "hash"]
    done = run(app, drawn)
    assert done.exit_code == 0, done.output
    requests = read_requests(asked)
    assert len(requests) == 40
    answers = tmp_path / "answers.jsonl"
    lines = [
        {
            "custom_id": request.custom_id,
            "response": {
                "status_code": 200,
                "body": {
                    "model": "m",
                    "choices": [{"message": {"role": "assistant", "content": "lamp"}, "finish_reason": "stop"}],
                },
            },
        }
        for request in requests
    ]
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    folder = tmp_path / "answers"
    assert (
        run(app, ["knowledge", "ingest", str(answers), "--requests", str(asked), "--out", str(folder)]).exit_code == 0
    )
    made = ["knowledge", "intents", str(sample_shop), "--answers", str(folder), "--out", str(tmp_path / "k")]
    done = run(app, [*made, "--encoder", "hash", "--neighbours", "3"])
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "k" / "knowledge.json").read_text(encoding="utf-8"))
    assert told["answers"]["n_prefixes"] == 20
    assert told["prompts"]["long"]["n_texts"] == 20
