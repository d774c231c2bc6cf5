"""What every peer does with a request: ids to indices, one graph with encoder, exact scan and top-k, indices to ids.

Plain NumPy and ONNX Runtime; imports nothing else of this project, because it runs in the peers' own environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

MAX_SEQ_LEN = 50


class Model:
    """`whole.onnx` and `item_ids.txt` of a folder; `answer` takes a list of histories and gives a list of replies."""

    def __init__(self, folder: Path, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads take the cores that the server's other processes need; on two cores it is the better choice.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(str(folder / "whole.onnx"), options, providers=["CPUExecutionProvider"])
        self._item_ids = ["", *(folder / "item_ids.txt").read_text().split()]  # row 0 is padding
        self._index_of = {item_id: index for index, item_id in enumerate(self._item_ids)}
        for batch in (1, 2, 4, 8, 16, 32):  # the arena grows now and not under load
            self.answer([self._item_ids[1 : 1 + MAX_SEQ_LEN]] * batch)

    def answer(self, histories: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        """Per history, oldest first: `item_ids` and `scores` of the best 20. Padded on the left to the longest."""
        known = [[self._index_of[i] for i in history[-MAX_SEQ_LEN:] if i in self._index_of] for history in histories]
        longest = max(1, *(len(history) for history in known))
        item_seq = np.zeros((len(known), longest), np.int64)
        for row, history in enumerate(known):
            if history:
                item_seq[row, longest - len(history) :] = history
        seq_len = np.array([len(history) for history in known], np.int64)
        indices, scores = self._session.run(["indices", "scores"], {"item_seq": item_seq, "seq_len": seq_len})
        return [
            {"item_ids": [self._item_ids[index] for index in row], "scores": values}
            for row, values in zip(indices.tolist(), scores.tolist(), strict=True)
        ]
