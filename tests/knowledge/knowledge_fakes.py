"""What several test files of the knowledge package share and no fixture can give: a type and a recording encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from models.data.dataset import Dataset
from models.knowledge.encoders import Encoded, HashEncoder, Report

MakeDataset = Callable[..., Dataset]


class RecordingEncoder(HashEncoder):
    """The hash encoder; `calls` holds the texts of each call, and call number `interrupt_at` ends in Ctrl-C."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.calls: list[list[str]] = []
        self._interrupt_at = interrupt_at

    def encode(self, texts: Sequence[str], report: Report | None = None) -> Encoded:
        if len(self.calls) == self._interrupt_at:
            raise KeyboardInterrupt
        self.calls.append(list(texts))
        return super().encode(texts, report)
