"""Real users' explained answers as a Markdown page: the curl that asks, the reply, and what the ids stand for.

    python scripts/explained_users.py RUN DATASET --host http://127.0.0.1:8000 --out docs/results/explained-users.md

RUN is the folder of the evaluated run whose artefact is served: its predictions.parquet has the test users' histories.
DATASET has the titles. Users are drawn at random with a seed, or named with --user.
"""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer


def main(
    run: Annotated[Path, typer.Argument(help="folder of the evaluated run that is served")],
    dataset: Annotated[Path, typer.Argument(help="dataset folder, for titles")],
    host: Annotated[str, typer.Option(help="the service")] = "http://127.0.0.1:8000",
    scenario: Annotated[str | None, typer.Option(help="where several models are served")] = None,
    user: Annotated[list[str] | None, typer.Option(help="user_id of a test user, once for each")] = None,
    users: Annotated[int, typer.Option(min=1, help="drawn where none is named")] = 3,
    seed: Annotated[int, typer.Option(help="of the draw")] = 1,
    count: Annotated[int, typer.Option(min=1, max=200)] = 5,
    diversity: Annotated[float, typer.Option(min=0, max=1)] = 0.0,
    newest: Annotated[int, typer.Option(min=1, help="items of a history that are sent, the newest")] = 20,
    out: Annotated[Path | None, typer.Option(help="Markdown file; by default it is printed")] = None,
) -> None:
    cases = {case["user_id"]: case for case in pq.read_table(run / "predictions.parquet").to_pylist()}
    items = pq.read_table(dataset / "items.parquet").to_pylist()
    texts = {str(item["item_id"]): _text(item) for item in items}
    chosen = user or random.Random(seed).sample(sorted(cases), min(users, len(cases)))
    if missing := [name for name in chosen if name not in cases]:
        raise typer.BadParameter(f"{', '.join(missing)}: no test user of {run}", param_hint="--user")
    drawn = f"named: {', '.join(chosen)}" if user else f"drawn with seed {seed}"
    parts = [f"# Explained answers\n\nTest users of {run.name}, {drawn}.\n"]
    for name in chosen:
        history = cases[name]["history"][-newest:]
        asked: dict[str, Any] = {"history": [{"item_id": item_id} for item_id in history]}
        asked |= {"count": count, "explain": True}
        if scenario:
            asked["scenario"] = scenario
        if diversity:
            asked["diversity"] = diversity
        parts.append(_section(name, history, asked, host, texts))
    page = "\n".join(parts)
    if out is None:
        typer.echo(page, nl=False)
    else:
        out.write_text(page, encoding="utf-8")


def _section(name: str, history: list[str], asked: dict[str, Any], host: str, texts: dict[str, str]) -> str:
    headers = ["-H", "content-type: application/json", "-H", "x-request-timeout-ms: 5000"]
    body = json.dumps(asked)
    command = ["curl", "-sS", "--fail-with-body", f"{host}/v1/recommend", *headers, "-d", body]
    reply = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    lines = [f"## {name}\n", "What the user did, oldest first:\n"]
    lines += [f"- {texts.get(item_id, '')} ({item_id})" for item_id in history]
    lines += ["", "```sh", f"curl -s {host}/v1/recommend \\", "  -H 'content-type: application/json' \\"]
    lines += ["  -H 'x-request-timeout-ms: 5000' \\", f"  -d '{body}'", "```", "", "```json"]
    lines += [json.dumps(reply, indent=1, ensure_ascii=False), "```", ""]
    lines += ["| item | interest | because of |", "| --- | --- | --- |"]
    for item in reply["items"]:
        told = item.get("explanation", {})
        interest, because = told.get("interest"), told.get("because")
        named = "-" if interest is None else f"{interest['text']} ({interest['kind']})"
        weighs = "-" if because is None else f"{texts.get(because['item_id'], '')} ({because['weight']:.2f})"
        lines.append(f"| {_cell(texts.get(item['item_id'], item['item_id']))} | {_cell(named)} | {_cell(weighs)} |")
    if intents := reply.get("intents"):
        lines += ["", "What it predicts of the intents, by the products nearest to them:", ""]
        lines += ["| view | nearest products (cosine) |", "| --- | --- |"]
        for view, near in intents.items():
            told = "; ".join(f"{texts.get(item['item_id'], '')} ({item['similarity']:.2f})" for item in near)
            lines.append(f"| {view} | {_cell(told)} |")
    return "\n".join(lines) + "\n"


def _text(item: dict[str, Any]) -> str:
    return str(item.get("title") or item.get("generated_text_id") or "")


def _cell(text: str) -> str:
    return text.replace("|", "/")


if __name__ == "__main__":
    typer.run(main)
