"""Rows of the item table for items that have a text and nothing else: nobody has interacted with them yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import RunError
from models.llm_esr import LLMESR

# Relative to the variance of the vectors' directions, so that the number of items does not move them.
PENALTIES: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
N_FOLDS: Final = 5


@dataclass(frozen=True, eq=False)
class CollaborativeMap:
    """Collaborative rows from LLM vectors: `factor x ((vector - mean_in) @ weights + mean_out)`.

    Ridge regression onto the trained rows, each weighted by its item's training interactions: a row that few
    interactions made is mostly its start. `factor` gives new rows the mean length of trained ones: a regression
    shortens what it predicts, the more the less the text says, and scores are dot products. Measured on Beauty, hr@20
    of 605 items left out of the fit: neither .004, weights alone .027, length alone .052, both .106. Factor and penalty
    are chosen on left-out items, so that they hold for items the map has not seen.
    """

    mean_in: NDArray[np.float64]  # (llm_dim,)
    weights: NDArray[np.float64]  # (llm_dim, D)
    mean_out: NDArray[np.float64]  # (D,)
    factor: float
    penalty: float
    explained: float  # share of the weighted variance of left-out rows that the text explains, before the factor
    n_items: int  # trained rows it was fitted on

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """float64 (n, D) of vectors (n, llm_dim)."""
        return self.factor * ((vectors - self.mean_in) @ self.weights + self.mean_out)

    def describe(self) -> dict[str, Any]:
        """What a manifest or a report says of it."""
        return {
            "method": "ridge regression from LLM vectors, weighted by training interactions, rows at trained length",
            "penalty": self.penalty,
            "explained_on_left_out_items": round(self.explained, 4),
            "length_factor": round(self.factor, 4),
            "n_items": self.n_items,
        }


@dataclass(frozen=True, eq=False)
class NewItemRows:
    """How a trained model places items by their text: the adapter for the semantic half, a fitted map for the other."""

    model: LLMESR
    collaborative: CollaborativeMap | None  # None: the model has no collaborative view

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows float32 (n, V x D) of the item table from LLM vectors (n, llm_dim), halves in the table's order."""
        halves = [] if self.collaborative is None else [self.collaborative(vectors).astype(np.float32)]
        with torch.no_grad():
            halves.append(self.model.adapter(torch.from_numpy(vectors)).numpy())
        return np.concatenate(halves, axis=1)


def fit_new_item_rows(model: LLMESR, popularity: NDArray[np.int64], seed: int = 0) -> NewItemRows:
    """The way from a text's vector to a row, fitted to the rows `model` has learnt.

    Args:
        model: trained, on the CPU.
        popularity: training interactions by item index, (n_items + 1,); items without any are not learnt from.
        seed: of the folds.

    Raises:
        RunError: the model has no semantic view, or fewer than `N_FOLDS` items were trained.
    """
    if not isinstance(model, LLMESR) or "semantic" not in model.config.views:
        raise RunError("the model knows items by their id alone (no semantic view): it has no place for a new text")
    if "collaborative" not in model.config.views:
        return NewItemRows(model, None)
    trained = np.flatnonzero(popularity > 0)
    if len(trained) < N_FOLDS:
        raise RunError(f"{len(trained)} items have training interactions, expected at least {N_FOLDS} to fit a map to")
    return NewItemRows(
        model,
        fit_collaborative_map(
            model.llm_item_embeddings.numpy()[trained],
            model.item_embeddings.detach().numpy()[trained],
            popularity[trained],
            seed,
        ),
    )


def fit_collaborative_map(
    vectors: NDArray[np.float32], rows: NDArray[np.float32], popularity: NDArray[np.int64], seed: int = 0
) -> CollaborativeMap:
    """The map from vectors (n, llm_dim) to rows (n, D), penalty and length chosen by `N_FOLDS`-fold cross-validation.

    Args:
        popularity: (n,) weights, all above 0.
    """
    x, y = vectors.astype(np.float64), rows.astype(np.float64)
    share = popularity / popularity.sum()
    fold = np.random.default_rng(seed).permutation(len(x)) % N_FOLDS
    left_out = {penalty: np.empty_like(y) for penalty in PENALTIES}
    for number in range(N_FOLDS):
        out = fold == number
        for penalty, (mean_in, weights, mean_out) in _ridges(x[~out], y[~out], share[~out]).items():
            left_out[penalty][out] = (x[out] - mean_in) @ weights + mean_out
    errors = {penalty: float(share @ np.square(left_out[penalty] - y).sum(1)) for penalty in PENALTIES}
    penalty = min(errors, key=lambda one: errors[one])
    spread = float(share @ np.square(y - share @ y).sum(1))
    explained = 1 - errors[penalty] / spread if spread > 0 else 0.0
    predicted = np.linalg.norm(left_out[penalty], axis=1).mean()
    # Texts that say nothing: the rows stay short and the items in the background, rather than anywhere at full length.
    factor = float(np.linalg.norm(y, axis=1).mean() / predicted) if explained > 0 else 1.0
    mean_in, weights, mean_out = _ridges(x, y, share)[penalty]
    return CollaborativeMap(
        mean_in,
        weights,
        mean_out,
        factor=factor,
        penalty=penalty,
        explained=explained,
        n_items=len(x),
    )


_Ridge = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def _ridges(x: NDArray[np.float64], y: NDArray[np.float64], share: NDArray[np.float64]) -> dict[float, _Ridge]:
    """Mean of the inputs, weights, mean of the outputs, by penalty: one eigendecomposition serves them all."""
    share = share / share.sum()
    mean_in, mean_out = share @ x, share @ y
    centred = x - mean_in
    values, axes = np.linalg.eigh((centred * share[:, None]).T @ centred)
    values = np.maximum(values, 0)
    projected = axes.T @ ((centred * share[:, None]).T @ (y - mean_out))
    scale = max(float(values.mean()), 1e-12)
    return {p: (mean_in, axes @ (projected / (values + p * scale)[:, None]), mean_out) for p in PENALTIES}
