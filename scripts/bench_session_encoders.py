"""Latency of session encoders in ONNX Runtime, each as a ratio to SASRec's, measured in one run and interleaved.

Untrained weights: speed depends on shapes. SASRec is the plain backbone that `bench_artefact.py` writes, two blocks of
width 64; `--dim` sets the width of all. A row is the median over rounds of the time of one batch, encoder alone.

    python scripts/bench_session_encoders.py --encoders sr-gnn stamp gru4rec --json session-encoders.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.graphs import EncoderGraph
from export.to_onnx import write_encoder
from models.config import LLMESRConfig, SessionConfig
from models.llm_esr import LLMESR
from models.sessions.retriever import SessionRetriever
from service.artefact.files import ENCODER, ITEMS
from service.inference.runtime import make_session

MAX_SEQ_LEN, N_ITEMS, SEED = 50, 10_000, 7
REFERENCE = "sasrec"
LENGTHS, BATCHES = (20, 50), (1, 32)


def model_of(encoder: str, dim: int) -> Any:
    """An untrained retriever."""
    torch.manual_seed(SEED)
    if encoder == REFERENCE:
        config = LLMESRConfig(
            views=("collaborative",),
            hidden_size=dim,
            max_seq_len=MAX_SEQ_LEN,
            distillation_weight=0.0,
            collaborative_init="random",
        )
        return LLMESR(config, N_ITEMS, None).eval()
    settings = {"kind": "session", "encoder": encoder, "hidden_size": dim, "max_seq_len": MAX_SEQ_LEN}
    return SessionRetriever(SessionConfig.model_validate(settings), N_ITEMS).eval()


def session_of(encoder: str, dim: int, folder: Path) -> Any:
    """The encoder's graph, loaded as the service loads it, one thread."""
    folder.mkdir()
    graph = EncoderGraph(model_of(encoder, dim))
    np.save(folder / ITEMS, graph.items.numpy())
    write_encoder(graph, folder)
    return make_session(folder / ENCODER, "cpu", intra_op_threads=1)


def measure(sessions: dict[str, Any], length: int, batch: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of each encoder; every round runs each once, in a new order."""
    rng = np.random.default_rng(SEED)
    feed = {
        "item_seq": rng.integers(1, N_ITEMS + 1, (batch, length)),
        "seq_len": np.full(batch, length, np.int64),
    }
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for at in range(rounds + 5):
        for name in rng.permutation(list(sessions)):
            started = time.perf_counter()
            sessions[name].run(["queries"], feed)
            if at >= 5:  # the first ones warm up
                taken[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=["sr-gnn"], help="beside SASRec")
    parser.add_argument("--dim", type=int, default=64, help="width of every encoder")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            names = dict.fromkeys([REFERENCE, *given.encoders])
            sessions = {name: session_of(name, given.dim, Path(folder) / name) for name in names}
            rows = []
            for length in LENGTHS:
                for batch in BATCHES:
                    medians = measure(sessions, length, batch, given.rounds)
                    for name, ms in medians.items():
                        ratio = ms / medians[REFERENCE]
                        rows.append({"encoder": name, "length": length, "batch": batch, "ms": ms, "ratio": ratio})
                        print(f"{name:8} length {length:3} batch {batch:3}  {ms:8.3f} ms  {ratio:5.2f} x {REFERENCE}")
            if given.json:
                given.json.write_text(json.dumps({"dim": given.dim, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
