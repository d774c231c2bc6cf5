"""How much a list of LLM interests says of the user who inherits it: its nearest interest to what he took next.

    python scripts/interest_nearness.py $AFTERGLOW_RUNS/knowledge/amazon_beauty-eimf $AFTERGLOW_DATA/amazon_beauty

EIMF picks, for each training target, the interest of the inherited list that is nearest to the target's title. This
prints the mean cosine of that pick for the list of the user's own typical user, for lists dealt to other typical users,
and for random interests; for all users and for the typical users themselves, of whom the language model really read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.data.dataset import read_dataset
from models.data.splits import SPLITS
from models.knowledge.interests import InterestKnowledge, load_interests, shuffled_interests

FIRST_TARGET = 4  # as in training


def nearest(knowledge: InterestKnowledge, users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n,) cosine of each item's title and the nearest interest its user inherits; nan without a title or interests."""
    texts = knowledge.projected(100)
    lists = texts.interests / np.maximum(np.linalg.norm(texts.interests, axis=2, keepdims=True), 1e-9)
    titles = texts.items / np.maximum(np.linalg.norm(texts.items, axis=1, keepdims=True), 1e-9)
    found = np.full(len(users), np.nan)
    for at in np.array_split(np.arange(len(users)), len(users) // 4096 + 1):
        rows = texts.exemplar_of_user[users[at]]
        cosine = np.einsum("nmt,nt->nm", lists[rows], titles[items[at]])
        cosine[~texts.mask[rows]] = -np.inf
        known = texts.mask[rows].any(1) & (titles[items[at]] != 0).any(1)
        found[at] = np.where(known, cosine.max(1), np.nan)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("knowledge", type=Path)
    parser.add_argument("dataset", type=Path)
    options = parser.parse_args()
    dataset = read_dataset(options.dataset)
    split = SPLITS["user_disjoint"](dataset)
    knowledge = load_interests(options.knowledge, dataset, "user_disjoint")
    train = split.train
    places = np.concatenate([np.arange(n) for n in np.diff(train.offsets)])
    of_target = places >= FIRST_TARGET
    users, items = np.asarray(train.rows)[of_target], np.asarray(train.items)[of_target].astype(np.int64)
    with np.load(options.knowledge / "interests.npz", allow_pickle=False) as kept:
        typical = np.isin(np.asarray(dataset.user_ids), kept["user_ids"])
    print("| lists | all training users | typical users themselves |\n| --- | --- | --- |")
    for name, what in (("own", ()), ("of another typical user", ("exemplars",)), ("random", ("interests",))):
        said = nearest(shuffled_interests(knowledge, what, 1) if what else knowledge, users, items)
        print(f"| {name} | {np.nanmean(said):.3f} | {np.nanmean(said[typical[users]]):.3f} |")
    print(
        f"\n{len(users):,} targets of {len(np.unique(users)):,} users, {int(typical[users].sum()):,} of typical users"
    )


if __name__ == "__main__":
    main()
