"""Are explanations about the items they explain? Names by the LLM's phrases against names by shuffled ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from models import runs
from models.contracts import AttentiveModel, RetrieverModel
from models.errors import RunError
from models.naming import CHANCE_SHARE, named_phrases, phrase_categories
from models.progress import bar
from models.ranking import queries_of, rank_cases
from service.features.explanation import nearest_phrases, unit_rows, winning_queries

_SEPARATOR = " > "
_FLOORS = (-1.0, 0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def measure(
    folder: Path, *, count: int, depth: int, n_shuffles: int, seed: int, console: Console, n_draws: int = 2000
) -> dict[str, Any]:
    """How often the phrase that names an item speaks of the item's category, over the test users' first items.

    Shuffled: texts are dealt to other vectors, so that every item is named by a phrase that was said of something else.
    Intervals are of 95 %: over users (bootstrap) for the true names and for the difference, over shuffles for theirs.

    Args:
        count: items explained of each user; depth: parts of a category "A > B > C" that are compared, 0 = all of it.

    Raises:
        RunError: not a finished run, or its model has no phrases, or no item has a category.
    """
    run = runs.load_run(folder)
    model: RetrieverModel = run.model
    phrases = named_phrases(model, run.split.valid)
    categories = np.array(["", *(_cut(category, depth) for category in run.dataset.item_categories())], dtype=object)
    if phrases is None:
        raise RunError(f"{folder}: the model has no phrases; only alignment with an LLM's interests places any")
    if not any(categories):
        raise RunError(f"{folder}: no item of {run.dataset.name} has a category to compare names with")
    cases = run.split.test
    with bar(console) as progress:
        task = progress.add_task("ranking the whole catalogue", total=len(cases))
        ranking = rank_cases(model, cases, top=count, on_progress=lambda n: progress.advance(task, n))
    attentive: AttentiveModel = run.model
    told = attentive.interest_phrases()
    assert told is not None
    spoken = np.array(
        phrase_categories(told.text_vectors.numpy(), told.item_text_vectors.numpy(), categories[1:].tolist()), object
    )
    table = model.item_table().detach().numpy()
    queries = queries_of(model, cases)
    winners = np.stack([winning_queries(own, table[items]) for own, items in zip(queries, ranking.items, strict=True)])
    nearest, cosines = nearest_phrases(queries.reshape(-1, queries.shape[-1]), unit_rows(phrases.vectors))
    at = np.arange(len(cases))[:, None] * queries.shape[1] + winners
    named = Named(nearest[at], cosines[at], spoken, categories[ranking.items])
    rng = np.random.default_rng(seed)
    deals = [rng.permutation(len(spoken)) for _ in range(n_shuffles)]
    floor = phrases.similarity_floor
    by_phrase = cosines[at] >= floor
    return {
        "run": run.config["name"],
        "dataset": {"name": run.dataset.name, "sha256": run.dataset.digest},
        "split": run.split.name,
        "model": run.config["model"],
        "knowledge": {"shuffled": (run.knowledge or {}).get("shuffled")},
        "count": count,
        "category_depth": depth,
        "n_users": len(cases),
        "n_items": int(by_phrase.size),
        "n_phrases": len(phrases.texts),
        "n_phrases_used": len(np.unique(nearest[at][by_phrase])),
        "n_categories": len({category for category in categories if category}),
        "similarity_floor": floor,
        "floor_rule": f"{CHANCE_SHARE:.0%} of queries are not as near to any phrase when phrases are turned at random",
        "named_by_phrase": float(by_phrase.mean()),
        "named_by_category": float((~by_phrase & (named.categories != "")).mean()),
        "not_named": float((~by_phrase & (named.categories == "")).mean()),
        "agreement": named.agreement(floor, deals, n_draws, seed),
        "by_floor": [
            {"floor": at_least, "named_by_phrase": float((cosines[at] >= at_least).mean())}
            | {key: value for key, value in named.agreement(at_least, deals, 0, seed).items() if "_95" not in key}
            for at_least in _FLOORS
        ],
        "n_shuffles": n_shuffles,
        "seed": seed,
    }


class Named:
    """Explained items (users, count): the phrase nearest to the winning query, how near, and both their categories."""

    def __init__(
        self,
        phrase: NDArray[np.int64],
        cosine: NDArray[np.float32],
        spoken: NDArray[np.object_],
        categories: NDArray[np.object_],
    ) -> None:
        self.phrase, self.cosine, self.spoken, self.categories = phrase, cosine, spoken, categories

    def agreement(self, floor: float, deals: list[NDArray[np.int64]], n_draws: int, seed: int) -> dict[str, Any]:
        """Shares of the items that a phrase names, of those with a category, where it speaks of that category.

        Args:
            deals: permutations of the phrases: whose text each vector has then.
            n_draws: of the bootstrap over users; 0 leaves the intervals out.
        """
        asked = (self.cosine >= floor) & (self.categories != "")
        n = asked.sum(1)  # by user
        true = (asked & (self.spoken[self.phrase] == self.categories)).sum(1)
        dealt = np.array([(asked & (self.spoken[deal][self.phrase] == self.categories)).sum(1) for deal in deals])
        chance = dealt.mean(0)
        total = int(n.sum())
        found: dict[str, Any] = {
            "n": total,
            "n_agree": int(true.sum()),
            "true": _share(true.sum(), total),
            "shuffled": _share(chance.sum(), total),
        }
        if not n_draws or not total:
            return found
        found["shuffled_95"] = np.percentile(dealt.sum(1) / total, [2.5, 97.5]).tolist()
        rng = np.random.default_rng(seed)
        draws = []
        for _ in range(n_draws):
            times = np.bincount(rng.integers(0, len(n), len(n)), minlength=len(n)).astype(np.float64)
            drawn = max(float(n @ times), 1.0)
            draws.append((float(true @ times) / drawn, float((true - chance) @ times) / drawn))
        (low, low_difference), (high, high_difference) = np.percentile(draws, [2.5, 97.5], axis=0).tolist()
        found["true_95"] = [low, high]
        found["difference"] = found["true"] - found["shuffled"]
        found["difference_95"] = [low_difference, high_difference]
        found["told_apart"] = low_difference > 0
        return found


def as_markdown(report: dict[str, Any]) -> str:
    """The agreement and how it depends on the floor, as two Markdown tables."""
    found = report["agreement"]
    lines = [
        f"{report['run']}: {report['n_users']:,} test users, {report['count']} items each; "
        f"{report['named_by_phrase']:.1%} named by one of {report['n_phrases_used']:,} phrases "
        f"(cosine at least {report['similarity_floor']}), {report['named_by_category']:.1%} by their category.",
        "",
        "| names | items | agree with the item's category | 95 % |",
        "| --- | --- | --- | --- |",
    ]
    for name, label in (("true", "as the LLM said"), ("shuffled", f"shuffled ({report['n_shuffles']} times)")):
        interval = found.get(f"{name}_95")
        told = "-" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
        lines.append(f"| {label} | {found['n']:,} | {_percent(found[name])} | {told} |")
    if "difference" in found:
        low, high = found["difference_95"]
        lines.append(f"| difference | | {found['difference']:+.4f} | {low:+.4f} to {high:+.4f} |")
    lines += ["", "| cosine at least | named by a phrase | agree | shuffled |", "| --- | --- | --- | --- |"]
    for row in report["by_floor"]:
        floor = "any" if row["floor"] == -1 else f"{row['floor']:.1f}"
        lines.append(
            f"| {floor} | {row['named_by_phrase']:.1%} | {_percent(row['true'])} | {_percent(row['shuffled'])} |"
        )
    return "\n".join(lines) + "\n"


def _cut(category: str, depth: int) -> str:
    return _SEPARATOR.join(category.split(_SEPARATOR)[:depth]) if depth else category


def _share(part: float, of: int) -> float | None:
    return float(part) / of if of else None


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.4f}"
