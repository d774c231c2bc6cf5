"""requests, ask and ingest as a user runs them, in process and killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from fake_endpoint import Call, FakeEndpoint, Reply, chat
from typer.testing import CliRunner, Result

from models.data.dataset import read_dataset, write_dataset
from models.knowledge import cli
from models.knowledge.answers_folder import load_answers
from models.knowledge.batch import chat_request, write_requests
from models.knowledge.store import load_knowledge


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    users = [f"u{user}" for user in range(3) for _ in range(6)]
    items = [f"i{(user + place) % 5}" for user in range(3) for place in range(6)]
    scenarios = ["home", "garden"] * 9
    interactions = pa.table({"user_id": users, "item_id": items, "scenario": scenarios})
    names = ["lamp", "chair", "table", "rug", "vase"]
    table = pa.table({"item_id": [f"i{row}" for row in range(5)], "title": names})
    write_dataset(tmp_path / "shop", interactions, table)
    return tmp_path / "shop"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [*map(str, arguments)])


def answer(call: Call) -> Reply:
    text = call.body["messages"][-1]["content"]
    return chat('{"1": "calm lamps"}' if "JSON" in text else "blue lamp " * 12 if "shop" in text else "blue lamp")


@pytest.mark.parametrize(("paper", "n"), [("eimf", 3), ("llm4sbr", 18), ("llm4msr", 5)])
def test_requests_asked_and_ingested_give_a_folder_of_answers(
    paper: str, n: int, dataset: Path, server: FakeEndpoint, tmp_path: Path
) -> None:
    server.usual = answer
    requests, cache = tmp_path / "r.jsonl", tmp_path / "cache"
    written = run("requests", dataset, "--paper", paper, "--out", requests)
    assert written.exit_code == 0, written.stderr
    assert f"{n} requests" in written.stderr
    asking = ("ask", requests, "--base-url", server.url, "--model", "m", "--cache", cache, "--price", 1, 4)
    asked = run(*asking)
    assert asked.exit_code == 0, asked.stderr
    assert f"{n} of {n} answered, 0 of them from the cache" in asked.stderr
    assert "$0.000" in asked.stderr
    n_calls = len(server.calls)
    assert f"{n} of them from the cache; 0 calls" in run(*asking).stderr
    assert len(server.calls) == n_calls

    out = tmp_path / "answers"
    ingested = run("ingest", tmp_path / "r.answers.jsonl", "--requests", requests, "--out", out)
    assert ingested.exit_code == 0, ingested.stderr
    assert f"{n} of {n} requests have a good answer" in ingested.stderr
    assert len(load_answers(out).answers) == n
    shown = json.loads(run("show", out).stdout)
    assert (shown["paper"], shown["split"], shown["n_open"]) == (paper, "leave_one_out", 0)
    assert shown["dataset"]["digest"] == read_dataset(dataset).digest


def test_bad_answers_end_with_code_1_and_stand_in_the_requeue_file(
    dataset: Path, server: FakeEndpoint, tmp_path: Path
) -> None:
    requests, out = tmp_path / "r.jsonl", tmp_path / "out"
    run("requests", dataset, "--paper", "eimf", "--out", requests)
    server.usual = lambda call: chat("calm lamps")
    asking = ("--base-url", server.url, "--model", "m", "--cache", tmp_path / "cache")
    asked = run("ask", requests, *asking)
    assert asked.exit_code == 1
    assert "0 of 3 answered" in asked.stderr
    assert "holds no JSON object: 'calm lamps'" in asked.stderr
    ingested = run("ingest", tmp_path / "r.answers.jsonl", "--requests", requests, "--out", out)
    assert ingested.exit_code == 1
    assert "bad 3" in ingested.stderr
    assert "3 requests to send again" in ingested.stderr

    server.usual = answer
    again = out / "requeue.jsonl"
    assert run("ask", again, *asking, "--out", tmp_path / "second.jsonl").exit_code == 0
    assert run("ingest", tmp_path / "second.jsonl", "--requests", again, "--out", out).exit_code == 0
    assert not again.exists()
    assert load_answers(out).provenance["split"] == "leave_one_out"


def test_a_limit_a_list_of_users_and_descriptions_shape_the_requests(dataset: Path, tmp_path: Path) -> None:
    users = tmp_path / "users.txt"
    users.write_text("u1\n\nu2\n")
    out = tmp_path / "r.jsonl"
    made = run(
        *("requests", dataset, "--paper", "llm4msr", "--out", out, "--users", users, "--limit", 1),
        *("--describe", "home=lamps and rugs", "--describe", "garden=seeds", "--model", "m"),
    )
    assert made.exit_code == 0, made.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["custom_id"].split(":")[2] for row in rows] == ["user", "scenario", "scenario"]
    assert rows[0]["custom_id"].split(":")[3] in ("u1", "u2")
    assert "home: lamps and rugs; " in rows[1]["body"]["messages"][0]["content"]
    origin = json.loads((tmp_path / "r.origin.json").read_text())
    assert origin["options"]["n_named_users"] == 2


def test_build_takes_vectors_from_an_endpoint_or_from_an_ingested_batch(
    dataset: Path, server: FakeEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-1")
    cache = tmp_path / "cache"
    calling = ("--base-url", server.url, "--key-env", "MY_KEY", "--cache", cache)
    built = run("build", dataset, "--out", tmp_path / "k", "--encoder", "openai:e", *calling, "--price", 0.02, 0)
    assert built.exit_code == 0, built.stderr
    assert "calls, " in built.stderr
    assert {call.authorization for call in server.calls} == {"Bearer sk-1"}
    n_calls = len(server.calls)

    requests = tmp_path / "esr.jsonl"
    run("requests", dataset, "--paper", "llm-esr", "--out", requests, "--model", "e")
    asked = run("ask", requests, *calling)
    assert asked.exit_code == 0, asked.stderr
    assert len(server.calls) == n_calls  # each text is one question, however it is sent
    run("ingest", tmp_path / "esr.answers.jsonl", "--requests", requests, "--out", tmp_path / "vectors")
    encoder = f"answers:{tmp_path / 'vectors'}"
    built = run("build", dataset, "--out", tmp_path / "k2", "--encoder", encoder)
    assert built.exit_code == 0, built.stderr
    one, two = (load_knowledge(tmp_path / name, read_dataset(dataset)) for name in ("k", "k2"))
    assert (one.item_vectors == two.item_vectors).all()
    assert (one.user_vectors == two.user_vectors).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask", "r.jsonl"], "no endpoint: name one with --base-url"),
        (["ask", "r.jsonl", "--base-url", "http://h/v1", "--key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY is not set"),
        (["ask", "nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
        (["ingest", "r.jsonl", "--requests", "nowhere.jsonl", "--out", "o"], "nowhere.jsonl: cannot be read"),
        (["requests", "shop", "--paper", "eimf", "--out", "o", "--split", "odd"], "split 'odd' is unknown"),
        (["requests", "shop", "--paper", "eimf", "--out", "o", "--users", "no.txt"], "no.txt: cannot be read"),
        (["requests", "shop", "--paper", "eimf", "--out", "o", "--describe", "home=x"], "llm4msr alone"),
        (["requests", "shop", "--paper", "llm4msr", "--out", "o", "--describe", "home"], "expected SCENARIO=TEXT"),
        (["requests", "shop", "--paper", "llm4msr", "--out", "o", "--goods", "lamps"], "for eimf and llm4sbr"),
        (["build", "shop", "--out", "k", "--encoder", "openai:e"], "no endpoint"),
        (["build", "shop", "--out", "k", "--encoder", "word2vec"], "encoder 'word2vec' is unknown"),
    ],
)
def test_mistakes_are_one_line_and_code_1(
    arguments: list[str], message: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_requests(tmp_path / "r.jsonl", [chat_request("eimf:shop:user:u", "m", "?")])
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_an_end_in_the_middle_loses_only_the_calls_in_flight(
    sent: signal.Signals, code: int, server: FakeEndpoint, tmp_path: Path
) -> None:
    requests = tmp_path / "r.jsonl"
    asked = [chat_request(f"llm4sbr:shop:long:user:u{n}:prefix:1", "m", f"buyer {n}") for n in range(12)]
    write_requests(requests, asked)
    # Three calls at once: seven are answered, then each of the three hangs in its next one.
    server.hold_after = 7
    server.held.clear()
    command = [sys.executable, "-m", "models", "knowledge", "ask", str(requests), "--base-url", server.url]
    command += ["--cache", str(tmp_path / "cache"), "--concurrency", "3"]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
    # What is ignored stays so in a child: SIGTERM must end a shell's background job, which ignores SIGINT.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if sent == signal.SIGTERM else signal.default_int_handler)
    process = subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    try:
        deadline = time.monotonic() + 60
        while len(server.calls) < 10 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert len(server.calls) == 10
        process.send_signal(sent)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code
    if sent != signal.SIGKILL:
        assert "interrupted" in said
        assert "Traceback" not in said
    assert not (tmp_path / "r.answers.jsonl").exists()

    server.hold_after = None
    server.held.set()
    again = run("ask", requests, "--base-url", server.url, "--cache", tmp_path / "cache")
    assert again.exit_code == 0, again.stderr
    assert "12 of 12 answered, 7 of them from the cache; 5 calls" in again.stderr
    assert len(server.calls) == 15
