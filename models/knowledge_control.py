"""Knowledge that says nothing: the same vectors, dealt out to other items or users. A control for every gain."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Literal

import numpy as np

from models.knowledge.store import Knowledge


def shuffled(knowledge: Knowledge, what: Collection[Literal["items", "users"]], seed: int) -> Knowledge:
    """`knowledge` with its texts permuted; `provenance["shuffled"]` says what and by which seed.

    items: each item gets the vector of another. The set of vectors, and so their principal axes, stay the same.
    users: each user gets the vector of another, and its similar users are those whom that other's text is near.
    """
    rng = np.random.default_rng(seed)
    items = rng.permutation(len(knowledge.item_vectors) - 1)  # both drawn, so that one does not depend on the other
    users = rng.permutation(len(knowledge.user_vectors))
    item_vectors, user_vectors, similar = knowledge.item_vectors, knowledge.user_vectors, knowledge.similar_users
    if "items" in what:
        item_vectors = np.concatenate([item_vectors[:1], item_vectors[1:][items]])
    if "users" in what:
        user_vectors = user_vectors[users]
        similar = np.argsort(users)[similar[users]].astype(similar.dtype)  # back to who holds the near text now
    return dataclasses.replace(
        knowledge,
        item_vectors=item_vectors,
        user_vectors=user_vectors,
        similar_users=similar,
        provenance={**knowledge.provenance, "shuffled": {"what": sorted(what), "seed": seed}},
    )
