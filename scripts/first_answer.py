"""Ask the freshly started demo its first question and show the answer with titles; the demo's last step."""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
from since import note


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--started", type=int, required=True, help="Unix time the demo started at")
    parser.add_argument("--timings", type=Path, required=True, help="JSON file of the demo's times")
    options = parser.parse_args()
    url = f"http://127.0.0.1:{options.port}"
    if not _ready(f"{url}/readyz", seconds=60):
        return  # the service has said why on the same terminal

    titles = dict(zip(*_columns(options.dataset / "items.parquet", "item_id", "title"), strict=True))
    users, items, times = _columns(options.dataset / "interactions.parquet", "user_id", "item_id", "timestamp")
    history = [item for _, item in sorted((t, i) for u, i, t in zip(users, items, times, strict=True) if u == users[0])]
    body = {"history": [{"item_id": item} for item in history[-5:]], "count": 5}
    request = urllib.request.Request(
        f"{url}/v1/recommend",
        json.dumps(body).encode(),
        # The very first request of a cold machine may take longer than the scenario's budget.
        {"content-type": "application/json", "x-request-timeout-ms": "2000"},
    )
    with urllib.request.urlopen(request, timeout=5) as response:
        answer = json.load(response)
    note(options.started, options.timings, f"first answer, tier {answer['served']['tier']}")
    lines = [
        "  after",
        *(f"    {titles[item]}" for item in history[-5:]),
        f"  {answer['served']['model']['name']} recommends",
        *(f"    {entry['rank']}. {titles[entry['item_id']]}  ({entry['item_id']})" for entry in answer["items"]),
    ]
    print("\n".join(lines), file=sys.stderr)


def _ready(url: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    return False


def _columns(path: Path, *names: str) -> list[list[str]]:
    table = pq.read_table(path, columns=list(names))
    return [table.column(name).to_pylist() for name in names]


if __name__ == "__main__":
    main()
