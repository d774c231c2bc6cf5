"""Small real artefacts to load."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.baselines import write_topk_only


@pytest.fixture(scope="session")
def artefact_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 items, query = vector of the last item; i-12 is not available."""
    return write_topk_only(
        tmp_path_factory.mktemp("artefacts"),
        item_ids=[f"i-{number:02}" for number in range(1, 13)],
        available=[True] * 11 + [False],
    )
