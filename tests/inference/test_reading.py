from __future__ import annotations

import numpy as np
import pytest

from service.features.sequence import Padding
from service.inference.reading import without_padding


@pytest.mark.parametrize(
    ("padding", "attention"),
    [("left", [[0, 0, 0], [0, 0, 1], [0.25, 0.25, 0.5]]), ("right", [[0, 0, 0], [1, 0, 0], [0.25, 0.25, 0.5]])],
)
def test_padding_goes_from_the_side_it_is_on(padding: Padding, attention: list[list[float]]) -> None:
    found = without_padding(np.array(attention, np.float32)[:, None], np.array([0, 1, 3]), padding)
    assert [row.tolist() for row in found] == [[[]], [[1]], [[0.25, 0.25, 0.5]]]
