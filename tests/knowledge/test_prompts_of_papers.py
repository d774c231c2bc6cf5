"""What the four papers ask: wording, and that nothing held out is ever quoted."""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise

import pyarrow as pa
import pytest
from knowledge_fakes import MakeDataset

from models.data.dataset import Dataset, dataset_from_tables
from models.data.splits import SPLITS
from models.errors import KnowledgeError
from models.knowledge.prompts import PAPERS, Options, Question

N_USERS = 12


@pytest.fixture(scope="module")
def shops() -> Dataset:
    """Every title stands for exactly one event, so a title found in a prompt says which event was quoted.

    User u has u + 4 events in two scenarios and several sessions; times differ between users, so that the global split
    cuts through histories, and a scenario's events are not a prefix of a history.
    """
    rows = [
        {
            "user_id": f"user{user}",
            "item_id": f"i{user}-{place}",
            "timestamp": 1000 * place + 50 * user,
            "scenario": ("lamps", "chairs")[(user + place) % 3 == 0],
            "session_id": f"{user}-{place // 3}",
            "split": {3: "valid", 7: "test"}.get(user, "train"),
        }
        for user in range(N_USERS)
        for place in range(user + 4)
    ]
    items = [{"item_id": row["item_id"], "title": f"title<{row['item_id']}>"} for row in rows]
    return dataset_from_tables("shops", pa.Table.from_pylist(rows), pa.Table.from_pylist(items), digest="d")


def quoted(questions: list[Question]) -> set[str]:
    return {item for question in questions for item in re.findall(r"title<(.*?)>", question.text)}


@pytest.mark.parametrize("split_name", SPLITS)
@pytest.mark.parametrize("paper", PAPERS)
def test_no_held_out_item_is_in_any_prompt_about_behaviour(paper: str, split_name: str, shops: Dataset) -> None:
    split = SPLITS[split_name](shops)
    in_training = {shops.item_ids[item - 1] for item in split.train.items.tolist()}
    held_out = set(shops.item_ids) - in_training
    targets = {shops.item_ids[item - 1] for part in (split.valid, split.test) for item in part.targets.tolist()}
    assert targets <= held_out
    assert len(targets) >= 4
    questions = [q for q in PAPERS[paper].questions(shops, split, Options()) if q.kind != "item"]
    shown = quoted(questions)
    assert shown.isdisjoint(held_out)
    assert len(shown) > len(in_training) / 2  # and the check sees titles at all


@pytest.mark.parametrize("paper", PAPERS)
def test_the_leakage_check_sees_a_split_that_trains_on_what_it_holds_out(paper: str, shops: Dataset) -> None:
    split = dataclasses.replace(SPLITS["leave_one_out"](shops), train=shops.sequences)
    targets = {shops.item_ids[item - 1] for item in split.valid.targets.tolist()}
    if paper == "llm4msr":  # looks up the scenario of every training event, and finds that the split is another one
        with pytest.raises(KnowledgeError, match="was not drawn from"):
            PAPERS[paper].questions(shops, split, Options())
    else:
        questions = PAPERS[paper].questions(shops, split, Options())
        assert quoted([question for question in questions if question.kind != "item"]) & targets


def test_eimf_lists_the_newest_twenty_training_titles_oldest_first(make_dataset: MakeDataset) -> None:
    items = {f"i{n:02}": f"lamp  {n}" for n in range(25)}
    dataset = make_dataset({"u": list(items), "v": list(items)[:5]}, items)
    (question,) = PAPERS["eimf"].questions(dataset, SPLITS["leave_one_out"](dataset), Options(goods="lamps"))
    assert question.about == "u"  # v has three training items
    lines = question.text.splitlines()
    assert lines[0] == "These are the lamps one customer bought, oldest first:"
    assert lines[1] == "1. lamp 3"
    assert lines[20] == "20. lamp 22"
    assert lines[21].startswith("Which distinct interests")


def test_named_users_are_asked_about_even_with_short_histories(five_items: Dataset) -> None:
    split = SPLITS["leave_one_out"](five_items)
    paper = PAPERS["eimf"]
    assert paper.questions(five_items, split, Options()) == []
    assert [q.about for q in paper.questions(five_items, split, Options(users=frozenset({"u2"})))] == ["u2"]
    with pytest.raises(KnowledgeError, match="1 of 2 users are unknown: nobody"):
        paper.questions(five_items, split, Options(users=frozenset({"u2", "nobody"})))


def test_llm4sbr_asks_both_views_of_every_prefix_that_a_training_click_follows(make_dataset: MakeDataset) -> None:
    dataset = make_dataset({"u": ["a", "b", "c", "d", "e"]}, {"a": "A", "b": "B", "c": "C", "d": "D", "e": "E"})
    questions = PAPERS["llm4sbr"].questions(dataset, SPLITS["leave_one_out"](dataset), Options())
    assert [(q.kind, q.about) for q in questions] == [
        ("long", "user:u:prefix:1"),
        ("short", "user:u:prefix:1"),
        ("long", "user:u:prefix:2"),
        ("short", "user:u:prefix:2"),
    ]
    assert questions[2].text.startswith("A shopper clicked these products, oldest first:\n1. A\n2. B\nName one product")
    assert "long-term taste" in questions[2].text
    assert "most recent one or two clicks" in questions[3].text


def test_llm4sbr_prefixes_stay_inside_a_session_of_a_session_split(shops: Dataset) -> None:
    split = SPLITS["by_session"](shops)
    questions = PAPERS["llm4sbr"].questions(shops, split, Options())
    for question in questions:
        sessions = {(int(u), int(p) // 3) for u, p in re.findall(r"title<i(\d+)-(\d+)>", question.text)}
        ((user, session),) = sessions
        assert question.about.startswith(f"user:user{user}:session:{user}-{session}:prefix:")


def test_a_limit_draws_the_same_prefixes_for_the_same_seed(shops: Dataset) -> None:
    split = SPLITS["leave_one_out"](shops)

    def ids(limit: int | None, seed: int) -> list[str]:
        asked = PAPERS["llm4sbr"].questions(shops, split, Options(limit=limit, seed=seed))
        return [question.about for question in asked if question.kind == "long"]

    every = ids(None, 1)
    assert len(ids(10, 1)) == 10
    assert ids(10, 1) == ids(10, 1) != ids(10, 2)
    assert [every.index(one) < every.index(two) for one, two in pairwise(ids(10, 1))] == [True] * 9
    assert ids(10_000, 1) == every


def test_llm4msr_groups_a_history_by_shop_and_names_the_target_shop(shops: Dataset) -> None:
    split = SPLITS["leave_one_out"](shops)
    options = Options(users=frozenset({"user0", "user3"}), descriptions={"lamps": "what shines"})
    first, second, chairs, lamps = PAPERS["llm4msr"].questions(shops, split, options)
    # user0: places 0..3, chairs at 0 and 3; the last two are held out. user3: chairs at 0, 3, 6 of seven.
    assert first.text.splitlines()[1:3] == ["Chairs: title<i0-0>", "Lamps: title<i0-1>"]
    assert second.text.splitlines()[1:3] == [
        "Chairs: title<i3-0>; title<i3-3>",
        "Lamps: title<i3-1>; title<i3-2>; title<i3-4>",
    ]
    assert chairs.text.startswith("A retailer runs two shops whose customers overlap:\nchairs: ")
    assert "From the viewpoint of the chairs shop" in chairs.text
    assert "From the viewpoint of the lamps shop" in lamps.text
    n_train = len(split.train.items)
    counts = [int(n) for n in re.findall(r"(\d+) interactions", lamps.text)]
    assert sum(counts) == n_train < shops.n_interactions  # of the training part, not of everything
    assert "\nlamps: what shines; " in lamps.text


def test_llm4msr_describes_a_shop_by_its_frequent_categories() -> None:
    dataset = dataset_from_tables(
        "two",
        pa.table({"user_id": ["u"] * 6, "item_id": [*"aabcde"], "scenario": [*"xxxyyy"]}),
        pa.table({"item_id": [*"abcde"], "title": [*"ABCDE"], "category": ["Home > Lamp", "Oil", "Tea", None, None]}),
    )
    questions = PAPERS["llm4msr"].questions(dataset, SPLITS["leave_one_out"](dataset), Options())
    assert questions[-1].text.splitlines()[1:3] == [
        "x: Lamp, Oil; 3 interactions, 1 users, 2 items",
        "y: Tea; 1 interactions, 1 users, 1 items",
    ]


def test_datasets_without_scenarios_or_titles_are_refused(make_dataset: MakeDataset, five_items: Dataset) -> None:
    with pytest.raises(KnowledgeError, match="0 scenarios, llm4msr needs at least two"):
        PAPERS["llm4msr"].questions(five_items, SPLITS["leave_one_out"](five_items), Options())
    nameless = make_dataset({"u": ["a", "b", "c"]}, {"a": None, "b": None, "c": None})
    for paper in ("eimf", "llm4sbr"):
        with pytest.raises(KnowledgeError, match="none of its 3 items has a title"):
            PAPERS[paper].questions(nameless, SPLITS["leave_one_out"](nameless), Options())


@pytest.mark.parametrize(
    ("paper", "kind", "text", "value"),
    [
        ("eimf", "user", '{"1": "calm  lamps", "2": "oak tables"}', ["calm lamps", "oak tables"]),
        ("eimf", "user", 'Sure:\n```json\n{"1": "calm lamps"}\n```', ["calm lamps"]),
        ("llm4sbr", "long", ' "Blue Lamp, 4 W"\n', "Blue Lamp, 4 W"),
        ("llm4sbr", "short", 'Curling Iron, 1"', 'Curling Iron, 1"'),
        ("llm4msr", "user", "They want " + "light " * 10, "They want " + "light " * 9 + "light"),
    ],
)
def test_an_answer_is_read_whatever_it_is_wrapped_in(paper: str, kind: str, text: str, value: object) -> None:
    parse = PAPERS[paper].parse
    assert parse is not None
    assert parse(kind, text) == value


@pytest.mark.parametrize(
    ("paper", "text", "wrong"),
    [
        ("eimf", "calm lamps", "no JSON object"),
        ("eimf", '{"1": "calm lamps", "2"', "no JSON object"),
        ("eimf", '{"1": "calm" lamps"}', "is not JSON"),
        ("eimf", "{}", "at least one"),
        ("eimf", '{"1": ["calm lamps"]}', "phrases"),
        ("eimf", '{"1": " "}', "is empty"),
        ("llm4sbr", "", "is empty"),
        ("llm4sbr", "None", "is empty"),
        ("llm4sbr", "Lamp\nChair", "2 lines"),
        ("llm4sbr", "x" * 201, "201 characters"),
        ("llm4sbr", "I'm sorry, but I cannot tell.", "refuses"),
        ("llm4msr", "They want light.", "3 words"),
        ("llm4msr", "As an AI model I have no view of this customer and so cannot say", "refuses"),
    ],
)
def test_what_is_no_answer_is_refused_with_the_reason(paper: str, text: str, wrong: str) -> None:
    parse = PAPERS[paper].parse
    assert parse is not None
    with pytest.raises(ValueError, match=wrong):
        parse("long", text)


def test_every_template_has_its_section_and_another_digest() -> None:
    templates = [template for paper in PAPERS.values() for template in paper.templates.values()]
    assert all("arXiv:" in template.source for template in templates)
    assert len({template.digest for template in templates}) == len(templates) == 7


def test_prompts_that_folders_were_built_from_keep_their_digests() -> None:
    """A new digest makes every knowledge folder out of date: change it on purpose or not at all."""
    templates = PAPERS["llm-esr"].templates
    assert templates["item"].digest == "a895217f2676c5ea7516aa3df9d8bb981bf55f8189c075a564743565e036cc33"
    assert templates["user"].digest == "97c7320e3eb2108fd68e2a7e95f188c55b44d4afa874bb75c97cbc21153db100"
