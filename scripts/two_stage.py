"""What ranking adds to retrieving, through the served endpoint: NDCG@10 of both for the same moments.

    python scripts/two_stage.py runs/shop-llm4msr --url http://127.0.0.1:8000 --retrieved-suffix -retrieved

The service must serve each scenario of the ranker twice: `home`, which retrieves and ranks, and `home-retrieved` with
the same retriever alone. Moments are the ranker's test moments; what was taken there is what counts. The retriever must
have been trained on the same split, or it has seen them. Each answer must come from the first tier, or nothing is said.
Prints JSON: per scenario both means, the difference and its 95 % interval over users.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from numpy.typing import NDArray

from models import runs
from models.metrics import case_values, paired_bootstrap
from models.ranker_examples import Requests, ranking_data

K = 10
BATCH = 128
MISSED = 10**6


def main(
    run: Annotated[Path, typer.Argument(help="The ranker's run.")],
    url: Annotated[str, typer.Option(help="Where the service answers.")] = "http://127.0.0.1:8000",
    retrieved_suffix: Annotated[str, typer.Option(help="Names scenarios with the retriever alone.")] = "-retrieved",
    limit: Annotated[int, typer.Option(min=1, help="Most moments of a scenario.")] = 2_000,
    own: Annotated[
        bool, typer.Option(help="Ask for 200 and keep the scenario's own items: of shops that share no item.")
    ] = False,
) -> None:
    """Ask for every test moment in both scenarios and compare."""
    config = runs.read_run_config(run)
    inputs = runs.load_inputs(config)
    dataset, model = inputs.dataset, config.model
    test = ranking_data(
        config.data.dataset, dataset, inputs.split, model.max_seq_len, model.n_test_negatives, model.negatives_seed
    ).test
    names = np.array(["", *dataset.item_ids], dtype=object)
    found: dict[str, Any] = {}
    for place, scenario in enumerate(dataset.scenario_names):
        rows = moments_of(test, place, limit)
        if not len(rows):
            continue
        asked = [
            {
                "user_id": dataset.user_ids[test.user_index[row]],
                "history": [{"item_id": item} for item in names[test.item_seq[row][test.item_seq[row] > 0]]],
            }
            for row in rows
        ]
        taken = [set(names[test.candidates[row][test.labels[row] > 0]]) for row in rows]
        count, kept = K, None
        if own:
            assert dataset.scenarios is not None
            count, kept = 200, set(names[dataset.sequences.items[dataset.scenarios == place]])
        lists = [_ask(url, name, asked, count) for name in (scenario, scenario + retrieved_suffix)]
        ranked, alone = (_ndcg(_only(found_lists, kept), taken) for found_lists in lists)
        users = test.user_index[rows]
        means = [_by_user(values, users) for values in (ranked, alone)]
        gain, low, high = paired_bootstrap(means[0], means[1], seed=0)
        found[scenario] = {
            "moments": len(rows),
            "users": len(means[0]),
            "ndcg@10 retrieved and ranked": round(float(ranked.mean()), 4),
            "ndcg@10 retrieved": round(float(alone.mean()), 4),
            "gain over users": {"mean": round(gain, 4), "low": round(low, 4), "high": round(high, 4)},
        }
    print(json.dumps(found, indent=2))


def moments_of(test: Requests, scenario_index: int, limit: int) -> NDArray[np.int64]:
    """Rows of a scenario's moments with something taken after some history; a draw of `limit` if there are more.

    Rows stand user by user: the first ones would be few users.
    """
    usable = (test.scenario_index == scenario_index) & (test.seq_len > 0) & test.labels.any(axis=1)
    rows = np.flatnonzero(usable)
    return rows if len(rows) <= limit else np.sort(np.random.default_rng(0).choice(rows, limit, replace=False))


def _only(lists: list[list[str]], kept: set[str] | None) -> list[list[str]]:
    """The lists without what is not in `kept`, if anything is said there."""
    return lists if kept is None else [[item for item in items if item in kept] for items in lists]


def _ask(url: str, scenario: str, asked: list[dict[str, Any]], count: int) -> list[list[str]]:
    lists: list[list[str]] = []
    headers = {"X-Request-Timeout-Ms": "30000"}
    with httpx.Client(base_url=url, timeout=60, headers=headers) as client:
        for start in range(0, len(asked), BATCH):
            more = {"scenario": scenario, "count": count, "degrade": "never"}
            requests = [{**one, **more} for one in asked[start : start + BATCH]]
            reply = client.post("/v1/recommend/batch", json={"requests": requests})
            reply.raise_for_status()
            for result in reply.json()["results"]:
                if result["status"] != 200:
                    raise SystemExit(f"{scenario}: {result['status']} {result['code']}")
                lists.append([item["item_id"] for item in result["items"]])
    return lists


def _ndcg(lists: list[list[str]], taken: list[set[str]]) -> NDArray[np.float64]:
    """NDCG@10 of each moment; what was taken and is not in the list counts as missed."""
    ranks, rows = [], []
    for row, (items, wanted) in enumerate(zip(lists, taken, strict=True)):
        for item in sorted(wanted):
            ranks.append(items.index(item) if item in items else MISSED)
            rows.append(row)
    return case_values(f"ndcg@{K}", np.array(ranks), np.array(rows))


def _by_user(values: NDArray[np.float64], users: NDArray[np.int64]) -> NDArray[np.float64]:
    _, place = np.unique(users, return_inverse=True)
    means: NDArray[np.float64] = np.bincount(place, values) / np.bincount(place)
    return means


if __name__ == "__main__":
    typer.run(main)
