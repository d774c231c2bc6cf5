"""From which cosine on a phrase names a query, and what a phrase is about: what explanations are judged by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.contracts import AttentiveModel, RetrieverModel
from models.data.splits import EvalCases
from models.ranking import queries_of
from service.artefact.phrases import InterestPhrases
from service.features.explanation import nearest_phrases, unit_rows

CHANCE_SHARE = 0.99
_N_TURNS, _N_QUERIES = 10, 4096


def named_phrases(model: RetrieverModel, cases: EvalCases) -> InterestPhrases | None:
    """The model's phrases and the floor that its queries after `cases` give; None of a model without phrases.

    Args:
        cases: held out, and not those a report is about: the validation cases.
    """
    if not model.describe_inputs().has_attention:
        return None
    attentive: AttentiveModel = model  # type: ignore[assignment]  # it says so
    found = attentive.interest_phrases()
    if found is None:
        return None
    vectors: NDArray[np.float32] = found.vectors.cpu().numpy()
    queries = queries_of(model, cases)
    return InterestPhrases(found.texts, vectors, chance_floor(queries.reshape(-1, queries.shape[-1]), vectors))


def chance_floor(queries: NDArray[np.float32], vectors: NDArray[np.float32], seed: int = 11) -> float:
    """The cosine that CHANCE_SHARE of queries do not reach with any phrase when the phrases mean nothing.

    The phrases keep their lengths and angles among each other and are turned at random, all together: what is nearest
    then is so by chance, in as many dimensions and among as many phrases. 1 where there are no queries.

    Args:
        queries: (n, dim), of which at most 4,096 are drawn; vectors: (n_phrases, dim).
    """
    if not len(queries):
        return 1.0
    rng = np.random.default_rng(seed)
    dim = queries.shape[1]
    drawn = queries[rng.permutation(len(queries))[:_N_QUERIES]]
    nearest = []
    for _ in range(_N_TURNS):
        turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0].astype(np.float32)
        nearest.append(nearest_phrases(drawn, unit_rows(vectors @ turn))[1])
    return min(1.0, round(float(np.quantile(np.concatenate(nearest), CHANCE_SHARE)), 3))


def phrase_categories(
    phrase_texts: NDArray[np.float32], item_texts: NDArray[np.float32], categories: Sequence[str]
) -> list[str]:
    """The category each phrase speaks of, by its text alone: the one whose titles' mean direction is nearest.

    Only what the text encoder says goes in. The rows of the item table, and where training has placed the phrases among
    them, do not: so how often a phrase's category is that of the item it explains is no property of the measurement.

    Args:
        phrase_texts: (n_phrases, T); item_texts: (n_items + 1, T), a row of zeros where an item has no title.
        categories: of items 1..n_items, '' for none.
    """
    names = sorted({category for category in categories if category})
    row_of = {name: row for row, name in enumerate(names)}
    directions = unit_rows(item_texts[1:])
    means = np.zeros((len(names), item_texts.shape[1]), dtype=np.float32)
    known = np.array([bool(category) for category in categories], dtype=bool)
    np.add.at(means, [row_of[category] for category in categories if category], directions[known])
    nearest, _ = nearest_phrases(phrase_texts, unit_rows(means))
    return [names[row] for row in nearest.tolist()]
