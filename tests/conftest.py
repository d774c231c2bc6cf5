"""What holds for all tests."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tensors in tests are too small to share out, and threads that wait for each other spin."""
    torch.set_num_threads(1)
