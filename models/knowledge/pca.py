"""The principal components of the item vectors, kept so that a new item can be projected the same way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import KnowledgeError


@dataclass(frozen=True, eq=False)
class ItemPca:
    """Projection of an item vector v: `components @ (v - mean)`; strongest component first."""

    mean: NDArray[np.float32]  # (D,)
    components: NDArray[np.float32]  # (P, D), orthonormal rows
    explained_variance: NDArray[np.float32]  # (P,)
    explained_ratio: float  # share of the variance that the P components hold, 0..1


def fit_pca(vectors: NDArray[np.float32], n_components: int) -> ItemPca:
    """The leading components of `vectors` (n_items, D), centred and not whitened, as LLM-ESR section 3 does.

    The full solver has no random start and scikit-learn fixes the signs, so the same vectors give the same components.
    There are min(n_components, n_items, D) of them.
    """
    from sklearn.decomposition import PCA

    if len(vectors) < 2:
        raise KnowledgeError(f"principal components need at least 2 items, found {len(vectors)}")
    pca = PCA(n_components=min(n_components, *vectors.shape), svd_solver="full").fit(vectors.astype(np.float64))
    return ItemPca(
        mean=pca.mean_.astype(np.float32),
        components=pca.components_.astype(np.float32),
        explained_variance=pca.explained_variance_.astype(np.float32),
        explained_ratio=float(
            pca.explained_variance_.sum() / max(vectors.astype(np.float64).var(0, ddof=1).sum(), 1e-30)
        ),
    )
