"""Which answered prefixes teach, validate, and are held back to see what answers are worth; divided by user.

Of the users that somebody asked a language model about, and that are not in the split's test part, 20 % are held back
(their sessions leave training, clicks included) and 10 % validate; the rest teach. Answers about test sessions are not
read at all. A prefix that ends right before a session's second last click is never a click target: under leave-one-out,
by which prefixes were drawn, that click is a validation target, and whoever drew them may have looked at it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.data.dataset import Dataset
from models.data.held_out import Split
from models.data.session_splits import every_prefix
from models.errors import ConfigError
from models.knowledge.intents import IntentKnowledge

HELD_BACK_SHARE: Final = 0.2
VALID_SHARE: Final = 0.1


@dataclass(frozen=True, eq=False)
class AnsweredSplit:
    """A split of sessions without what is held back, and the part each answered prefix has: rows of the knowledge."""

    split: Split  # `train` without held-back and validating users, whose cases `valid` has more of
    taught: NDArray[np.int64]  # prefixes whose answers teach, in seeded order
    validating: NDArray[np.int64]  # how near predicted intents come is told of these
    held_back: NDArray[np.int64]  # each asks for its next click
    not_targets: NDArray[np.int64]  # those of `taught` whose next click is not trained on


def split_answered(knowledge: IntentKnowledge, dataset: Dataset, split: Split, seed: int) -> AnsweredSplit:
    """The division of answered users under a split whose rows are sessions.

    Raises:
        ConfigError: sessions are parts of a user's row, or no answered user is left to teach or to be held back.
    """
    if (knowledge.session_ids != "").any():
        raise ConfigError(
            f"dataset '{dataset.name}': answers are about parts of a user's history, "
            "expected one session a row; cut it with `python -m models data sessions` before prefixes are drawn"
        )
    is_test, is_valid = (_members(part.user_index, dataset.n_users) for part in (split.test, split.valid))
    rng = np.random.default_rng(seed)
    users = rng.permutation(np.unique(knowledge.users))
    users = users[~is_test[users]]
    users = users[np.argsort(~is_valid[users], kind="stable")]  # those that validate clicks already come first
    n_valid = max(round(VALID_SHARE * len(users)), int(is_valid[users].sum()))
    n_held_back = round(HELD_BACK_SHARE * len(users))
    if n_held_back < 1 or n_valid + n_held_back >= len(users):
        raise ConfigError(
            f"dataset '{dataset.name}': {len(users)} users outside the test part have answers, "
            f"{n_valid} of them validate and {n_held_back} are held back; expected some to teach"
        )
    validates = _members(users[:n_valid], dataset.n_users)
    is_held_back = _members(users[len(users) - n_held_back :], dataset.n_users)
    teaches = _members(users[n_valid : len(users) - n_held_back], dataset.n_users)

    prefixes = rng.permutation(len(knowledge))
    before_validation = knowledge.cuts == dataset.sequences.lengths[knowledge.users] - 2
    taught = prefixes[teaches[knowledge.users[prefixes]]]
    kept = ~(validates | is_held_back)
    return AnsweredSplit(
        split=dataclasses.replace(
            split,
            train=split.train.where(kept[split.train.rows]),
            valid=every_prefix(dataset, np.flatnonzero(is_valid | validates)),
        ),
        taught=taught,
        validating=np.flatnonzero(validates[knowledge.users]),
        held_back=np.flatnonzero(is_held_back[knowledge.users] & ~before_validation),
        not_targets=taught[before_validation[taught]],
    )


def prefix_numbers(
    train_lengths: NDArray[np.int64], users: NDArray[np.int64], cuts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """int64 (n,): which of `SessionPrefixes` the first `cuts` clicks of sessions `users` are."""
    n_prefixes = np.maximum(train_lengths - 1, 0)
    numbers: NDArray[np.int64] = (np.cumsum(n_prefixes) - n_prefixes)[users] + cuts - 1
    return numbers


def _members(rows: NDArray[np.int64], n: int) -> NDArray[np.bool_]:
    found = np.zeros(n, dtype=bool)
    found[rows] = True
    return found
