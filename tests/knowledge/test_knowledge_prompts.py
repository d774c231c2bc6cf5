from __future__ import annotations

import re
from pathlib import Path

import pytest
from knowledge_fakes import MakeDataset, RecordingEncoder
from rich.console import Console

from models.data.dataset import Dataset
from models.data.sequences import Sequences
from models.data.splits import leave_one_out
from models.errors import KnowledgeError
from models.knowledge.prompts import ITEM_PROMPT, USER_PROMPT, item_prompts, llm_esr, texts_digest, user_prompts
from models.knowledge.store import build_knowledge

QUESTION = "What does a customer like who chose these, newest first: "


def test_an_item_prompt_quotes_title_then_known_attributes_and_no_codes(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(
        {"u": ["a", "b", "c"]},
        {
            "a": {"title": "Lamp.", "category": "Home > Light", "brand": "Lux", "price": 9.5, "semantic_id": "<a_1>"},
            "b": {"title": "Film", "category": "Drama|War", "plot": "Two\n friends."},
            "c": {"generated_text_id": "oak table home"},
        },
    )
    assert item_prompts(dataset) == [
        "Lamp. brand: Lux. price: 9.5. category: Home; Light",
        "Film. category: Drama; War. plot: Two friends",
        "oak table home",
    ]


def test_an_item_without_text_is_unknown_and_a_catalogue_without_text_is_refused(make_dataset: MakeDataset) -> None:
    assert item_prompts(make_dataset({"u": ["a", "b"]}, {"a": "Lamp", "b": None})) == ["Lamp", "unknown"]
    with pytest.raises(KnowledgeError, match="none of its 2 items has a text"):
        item_prompts(make_dataset({"u": ["a", "b"]}, {"a": None, "b": ""}))


def test_long_attributes_and_prompts_are_cut_where_the_paper_cuts_them(make_dataset: MakeDataset) -> None:
    long = {"title": "T", "description": "x" * 3000, "plot": "y" * 3000}
    (prompt,) = item_prompts(make_dataset({"u": ["a"]}, {"a": long}))
    assert prompt.startswith("T. description: " + "x" * 2048 + ". plot: ")
    assert len(prompt) == 4095


def test_a_user_prompt_lists_titles_newest_first_and_skips_items_without_title(make_dataset: MakeDataset) -> None:
    dataset = make_dataset({"u": ["a", "b", "c"], "v": ["b"]}, {"a": "Lamp", "b": None, "c": "Chair"})
    assert user_prompts(dataset, dataset.sequences) == [QUESTION + "Chair; Lamp", ""]


def test_a_long_history_keeps_its_newest_whole_titles(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm_esr, "MAX_HISTORY_CHARS", 18)  # 'three; two; ' takes 7 + 5, 'one; ' would reach 17
    dataset = make_dataset(
        {"u": ["z", "a", "b", "c"]}, {"a": "one", "b": "two", "c": "three", "z": "an old and long title"}
    )
    assert user_prompts(dataset, dataset.sequences) == [QUESTION + "three; two; one"]


def test_digests_change_with_any_text(five_items: Dataset) -> None:
    assert len({ITEM_PROMPT.digest, USER_PROMPT.digest}) == 2
    assert texts_digest(["ab", "c"]) != texts_digest(["a", "bc"])
    assert texts_digest(["ab", "c"]) == texts_digest(["ab", "c"])


def test_no_held_out_title_reaches_the_encoder_through_a_user_prompt(
    make_dataset: MakeDataset, tmp_path: Path, silent: Console
) -> None:
    # Every title stands for exactly one event: what is held out is in no training sequence, of any user.
    histories = {f"user{u}": [f"i{u}-{n}" for n in range(u + 1)] for u in range(12)}
    titles = {item: f"title<{item}>" for history in histories.values() for item in history}
    dataset = make_dataset(histories, titles)
    split = leave_one_out(dataset)
    held_out = {dataset.item_ids[item - 1] for cases in (split.valid, split.test) for item in cases.targets.tolist()}
    assert len(held_out) == 2 * 10  # user0 and user1 have fewer than 3 events and train only

    encoder = RecordingEncoder()
    build_knowledge(dataset, split, tmp_path / "out", encoder, console=silent)
    _, about_users = encoder.calls
    quoted = set(re.findall(r"title<(.*?)>", " ".join(about_users)))
    assert quoted.isdisjoint(held_out)
    assert quoted == titles.keys() - held_out  # and the check sees titles at all


def test_the_whole_sequence_would_have_leaked(five_items: Dataset) -> None:
    train = leave_one_out(five_items).train
    assert "oak table" not in user_prompts(five_items, train)[1]
    assert "oak table" in user_prompts(five_items, five_items.sequences)[1]


def test_a_user_without_training_events_has_no_prompt(five_items: Dataset) -> None:
    assert user_prompts(five_items, Sequences.from_lists([[], [1], [2, 3], []])) == [
        "",
        QUESTION + "red lamp",
        QUESTION + "green chair; blue lamp",
        "",
    ]
