"""Batch files written and read back; every answer checked, the others asked again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.data.dataset import Dataset
from models.data.splits import SPLITS
from models.errors import KnowledgeError
from models.knowledge.answers_folder import load_answers
from models.knowledge.batch import Answer, BatchFiles, Request, chat_request, read_requests, write_requests
from models.knowledge.embeddings import AnsweredEncoder
from models.knowledge.ingest import collect, ingest
from models.knowledge.prompts import PAPERS, Options
from models.knowledge.requests import describe_requests, make_requests, read_origin, write_with_origin
from models.knowledge.store import build_knowledge, load_knowledge


def line(custom_id: str, content: str, **choice: Any) -> dict[str, Any]:
    """One line of answers as batch services write it."""
    body = {
        "model": "m-2026",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop", **choice}
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 4},
    }
    return {
        "id": "x",
        "custom_id": custom_id,
        "response": {"status_code": 200, "request_id": "r", "body": body},
        "error": None,
    }


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def named(view: str, number: int) -> str:
    return f"llm4sbr:shop:{view}:user:u{number}:prefix:1"


@pytest.fixture
def asked() -> list[Request]:
    return [chat_request(named("long", number), "m", f"buyer {number}") for number in range(8)]


def test_requests_survive_the_way_through_a_file(tmp_path: Path, asked: list[Request]) -> None:
    odd = chat_request(named("short", 9), "m", "line one\nline two\u2028three, “Öl” \x85 end")
    assert write_requests(tmp_path / "r.jsonl", [*asked, odd]) == 9
    assert read_requests(tmp_path / "r.jsonl") == [*asked, odd]
    first = json.loads((tmp_path / "r.jsonl").read_text(encoding="utf-8").split("\n")[0])
    assert first == {
        "custom_id": "llm4sbr:shop:long:user:u0:prefix:1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": [{"role": "user", "content": "buyer 0"}]},
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.jsonl"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "is not a request"),
        ({"custom_id": "a", "url": "/v1/chat/completions"}, "is not a request .*'body'"),
        (
            {"custom_id": "a", "url": "/v1/images", "body": {"messages": [{"content": "x"}]}},
            "is not a request, expected a text",
        ),
        (
            {"custom_id": 7, "url": "/v1/embeddings", "body": {"input": "x"}},
            "is not a request, expected a text, a custom_id",
        ),
        ({"custom_id": named("long", 0), "url": "/v1/embeddings", "body": {"input": "x"}}, "repeats custom_id"),
    ],
)
def test_a_line_that_is_no_request_is_named(row: Any, message: str, tmp_path: Path, asked: list[Request]) -> None:
    write_requests(tmp_path / "good.jsonl", asked[:1])
    path = write_lines(tmp_path / "r.jsonl", (tmp_path / "good.jsonl").read_text(encoding="utf-8").strip(), row)
    with pytest.raises(KnowledgeError, match=rf"r\.jsonl: line 2 {message}"):
        read_requests(path)


def test_custom_ids_and_digests_stay_the_same_from_run_to_run(five_items: Dataset) -> None:
    split = SPLITS["leave_one_out"](five_items)
    first, second = (make_requests(five_items, split, "llm4sbr", "m", Options()) for _ in range(2))
    assert first == second
    assert [request.custom_id for request in first] == [  # u2 and u3 train on two items, u1 and u4 on one
        "llm4sbr:hand:long:user:u2:prefix:1",
        "llm4sbr:hand:short:user:u2:prefix:1",
        "llm4sbr:hand:long:user:u3:prefix:1",
        "llm4sbr:hand:short:user:u3:prefix:1",
    ]
    assert first[0].digest != first[1].digest
    assert first[0].digest == Request("another", first[0].url, {**first[0].body, "model": "larger"}).digest


def test_every_answer_is_checked_and_counted(tmp_path: Path, asked: list[Request]) -> None:
    path = write_lines(
        tmp_path / "answers.jsonl",
        line(named("long", 0), "<think>\nLamps,\nclearly.\n</think>\n\nBlue Lamp"),
        line(named("long", 1), ""),
        line(named("long", 2), "Blue La", finish_reason="length"),
        {"custom_id": named("long", 3), "response": {"status_code": 429, "body": {}}, "error": None},
        {"custom_id": named("long", 4), "response": None, "error": {"code": "expired", "message": "too late"}},
        line(named("long", 5), "Lamp\nChair"),
        line(named("long", 6), "None"),
        line(named("long", 6), "Oak Table"),  # a second try in the same file
        line(named("long", 0), "Red Lamp"),
        line("llm4sbr:shop:long:user:nobody:prefix:1", "Lamp"),
        "{half a line",
    )
    found = collect(asked, BatchFiles(path).answers(asked))
    assert {custom_id: checked.value for custom_id, checked in found.good.items()} == {
        named("long", 0): "Blue Lamp",
        named("long", 6): "Oak Table",
    }
    assert found.bad == {
        named("long", 1): "is empty",
        named("long", 2): "was not finished: finish_reason 'length'",
        named("long", 3): "status 429",
        named("long", 4): "status None: too late",
        named("long", 5): "has 2 lines, expected a product name alone",
    }
    assert found.missing == [named("long", 7)]
    assert (found.foreign, found.repeated) == (2, 1)


def test_answers_add_up_until_nothing_is_left_to_ask(tmp_path: Path, asked: list[Request]) -> None:
    first = write_lines(tmp_path / "1.jsonl", line(named("long", 0), "Lamp"), line(named("long", 1), ""))
    folder = tmp_path / "out"
    ingest(asked[:3], BatchFiles(first).answers(asked), None, folder)
    again = read_requests(folder / "requeue.jsonl")
    assert again == asked[1:3]
    assert json.loads((folder / "knowledge.json").read_text())["n_open"] == 2

    second = write_lines(tmp_path / "2.jsonl", line(named("long", 1), "Chair"), line(named("long", 2), "Table"))
    found = ingest(again, BatchFiles(second).answers(again), None, folder)
    assert (len(found.good), found.bad, found.missing) == (2, {}, [])
    assert not (folder / "requeue.jsonl").exists()
    loaded = load_answers(folder)
    assert {answer.value for answer in loaded.answers.values()} == {"Lamp", "Chair", "Table"}
    assert loaded.provenance["tokens"] == {"prompt": 60, "completion": 12}
    assert loaded.provenance["models"] == {"m-2026": 3}
    assert sorted(path.name for path in folder.iterdir()) == ["answers.jsonl", "knowledge.json"]

    # The same files once more change nothing: answers are found good already.
    found = ingest(asked[:3], BatchFiles(first, second).answers(asked), None, folder)
    assert (found.bad, found.missing) == ({}, [])
    assert load_answers(folder).answers == loaded.answers


def test_an_answer_to_a_prompt_that_has_changed_is_asked_again(tmp_path: Path, asked: list[Request]) -> None:
    path = write_lines(tmp_path / "1.jsonl", line(named("long", 0), "Lamp"))
    ingest(asked[:1], BatchFiles(path).answers(asked), None, tmp_path / "out")
    changed = [chat_request(named("long", 0), "m", "another prompt")]
    found = ingest(changed, [], None, tmp_path / "out")
    assert found.missing == [named("long", 0)]
    assert read_requests(tmp_path / "out" / "requeue.jsonl") == changed


def test_knowledge_json_says_where_prompts_come_from(tmp_path: Path, five_items: Dataset) -> None:
    split = SPLITS["leave_one_out"](five_items)
    options = Options(users=frozenset({"u1", "u2"}), goods="lamps")
    written = make_requests(five_items, split, "eimf", "m", options)
    requests = tmp_path / "eimf.jsonl"
    write_with_origin(requests, written, describe_requests(five_items, split, "eimf", options, written))
    answers = [Answer(written[0].custom_id, line("", '{"1": "calm lamps"}')["response"]["body"])]
    ingest(read_requests(requests), answers, read_origin(requests), tmp_path / "out")
    provenance = load_answers(tmp_path / "out").provenance
    assert provenance["dataset"] == {"name": "hand", "digest": "d1"}
    assert provenance["split"] == "leave_one_out"
    assert provenance["prompts"]["user"]["digest"] == PAPERS["eimf"].templates["user"].digest
    assert provenance["prompts"]["user"]["n_texts"] == 2
    assert provenance["options"]["goods"] == "lamps"
    # what is asked again keeps its origin
    assert read_origin(tmp_path / "out" / "requeue.jsonl") == read_origin(requests)


def test_a_changed_file_and_another_papers_folder_are_refused(tmp_path: Path, asked: list[Request]) -> None:
    folder = tmp_path / "out"
    with pytest.raises(KnowledgeError, match=r"no knowledge\.json"):
        load_answers(folder)
    ingest(asked, [Answer(named("long", 0), line("", "Lamp")["response"]["body"])], None, folder)
    other = [chat_request("eimf:shop:user:u1", "m", "interests?")]
    with pytest.raises(KnowledgeError, match="holds answers of llm4sbr of shop, expected eimf of shop"):
        ingest(other, [], None, folder)
    with pytest.raises(KnowledgeError, match="expected one paper and one dataset"):
        ingest([*asked, *other], [], None, tmp_path / "new")
    with pytest.raises(KnowledgeError, match="custom_id 'mine-1' names no known paper"):
        ingest([chat_request("mine-1", "m", "?")], [], None, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (folder / "answers.jsonl").write_text("{}\n")
    with pytest.raises(KnowledgeError, match=r"answers\.jsonl: sha256 is"):
        load_answers(folder)


def embedding_line(custom_id: str, vector: Any) -> dict[str, Any]:
    body = {"model": "e", "data": [{"index": 0, "embedding": vector}], "usage": {"prompt_tokens": 3}}
    return {"custom_id": custom_id, "response": {"status_code": 200, "body": body}}


def test_vectors_of_a_batch_file_become_a_knowledge_folder(tmp_path: Path, five_items: Dataset, silent: Any) -> None:
    split = SPLITS["leave_one_out"](five_items)
    asked = make_requests(five_items, split, "llm-esr", "e", Options())
    assert [request.custom_id for request in asked[-2:]] == ["llm-esr:hand:user:u3", "llm-esr:hand:user:u4"]
    vectors = {request.custom_id: [row + 0.5, 1.0, -2.0] for row, request in enumerate(asked)}
    rows = [embedding_line(custom_id, vector) for custom_id, vector in vectors.items()]
    path = write_lines(tmp_path / "a.jsonl", *rows)
    found = ingest(asked, BatchFiles(path).answers(asked), None, tmp_path / "vectors")
    assert len(found.good) == 9

    encoder = AnsweredEncoder(tmp_path / "vectors")
    assert (encoder.dim, encoder.name) == (3, "openai:e")
    assert build_knowledge(five_items, split, tmp_path / "k", encoder, console=silent, n_components=2)
    knowledge = load_knowledge(tmp_path / "k", five_items)
    np.testing.assert_array_equal(
        knowledge.item_vectors[1:], [vectors[f"llm-esr:hand:item:{item}"] for item in "abcde"]
    )
    assert knowledge.user_vectors[3].tolist() == vectors["llm-esr:hand:user:u4"]
    # another split asks about users by other texts, and those have no vector
    with pytest.raises(KnowledgeError, match="no vector for 1 of 1 texts, the first is 'a text nobody embedded'"):
        encoder.encode(["a text nobody embedded"])


@pytest.mark.parametrize(
    ("vector", "why"),
    [
        ([], "no or of different lengths"),
        (["x"], "not a list of embeddings"),
        (None, "no or of different lengths|not finite"),
        ([1.0, float("nan")], "not finite"),
        ([1e9], "beyond float16"),
        ("AAA", "not a list of embeddings"),
    ],
)
def test_an_embedding_that_is_no_vector_is_bad(vector: Any, why: str, five_items: Dataset) -> None:
    (asked, *_) = make_requests(five_items, SPLITS["leave_one_out"](five_items), "llm-esr", "e", Options())
    answer = Answer(asked.custom_id, embedding_line("", vector)["response"]["body"])
    (found,) = collect([asked], [answer]).bad.values()
    assert re.search(why, found), found


def test_vectors_of_two_models_do_not_share_a_folder(tmp_path: Path, five_items: Dataset) -> None:
    asked = make_requests(five_items, SPLITS["leave_one_out"](five_items), "llm-esr", "e", Options())[:2]
    bodies = [embedding_line("", vector)["response"]["body"] for vector in ([1.0, 2.0], [1.0])]
    answers = [Answer(request.custom_id, body) for request, body in zip(asked, bodies, strict=True)]
    with pytest.raises(KnowledgeError, match=r"vectors of \[1, 2\] dimensions"):
        ingest(asked, answers, None, tmp_path / "out")
