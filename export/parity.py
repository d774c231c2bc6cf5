"""Holds an exported graph to the torch model it came from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.errors import ParityError
from export.graphs import EncoderGraph
from service.artefact.manifest import EncoderSpec
from service.features.sequence import SequenceFeatures, encode_sequences
from service.inference.golden import ranking_fault
from service.inference.retriever import run_encoder
from service.inference.topk import ExactTopK

TOLERANCE = 1e-4
BATCHES = (1, 3, 17)
TOP = 20


@dataclass(frozen=True)
class Parity:
    """The largest gaps that were found."""

    n_histories: int
    queries: float
    padding: float


def torch_queries(graph: EncoderGraph, encoder: EncoderSpec, histories: list[list[int]]) -> NDArray[np.float32]:
    """Queries float32 (batch, n_queries, dim) of the torch model, from the features that serving uses."""
    features = encode_sequences(
        histories,
        encoder.max_seq_len,
        padding=encoder.padding,
        length=encoder.fixed_length,
        n_items=len(graph.items) - 1,
    )
    result: NDArray[np.float32] = _torch_outputs(graph, features)[0]
    return result


def _torch_outputs(graph: EncoderGraph, features: SequenceFeatures) -> list[NDArray[np.float32]]:
    with torch.no_grad():
        given = graph(torch.from_numpy(features.item_seq), torch.from_numpy(features.seq_len))
    return [tensor.numpy() for tensor in (given if isinstance(given, tuple) else (given,))]


def check_parity(graph: EncoderGraph, session: Any, encoder: EncoderSpec, seed: int = 11) -> Parity:
    """Torch and ONNX Runtime agree at batch 1, 3 and 17 on empty, short, exact, over-long and mixed histories.

    Queries, and attention and intents where there are any, within `TOLERANCE`; the same top 20 (but for swaps among
    scores closer than the rounding of float32); and in clean mode the same queries whatever padding is appended.

    Raises:
        ParityError: names the case, the batch and the gap.
    """
    items = graph.items.numpy()
    n_items = len(items) - 1
    available = np.ones(len(items), np.bool_)
    available[0] = False
    topk = ExactTopK(items, available)
    largest_norm = float(np.sqrt(np.square(items, dtype=np.float64).sum(axis=1)).max())
    n_histories, widest, widest_padding = 0, 0.0, 0.0
    for case, histories in _batches(encoder.max_seq_len, n_items, seed):
        where = f"{case} histories, batch {len(histories)}"
        wanted = torch_queries(graph, encoder, histories)
        given = run_encoder(session, encoder, n_items, histories)
        widest = max(widest, _gap(f"{where}: ONNX Runtime and torch", given, wanted))
        _same_top(where, topk, wanted, given, 1e-6 * largest_norm)
        if encoder.mode == "clean":
            padded = _run_padded(session, encoder, histories)
            gap = _gap(f"{where}: appended padding changes the queries, with and without it they", padded, given)
            widest_padding = max(widest_padding, gap)
        if graph.inputs.has_attention:
            _check_attention(where, graph, session, encoder, histories)
        if graph.inputs.has_intents:
            _check_intents(where, graph, session, encoder, histories)
        n_histories += len(histories)
    return Parity(n_histories, widest, widest_padding)


def _batches(max_seq_len: int, n_items: int, seed: int) -> Iterator[tuple[str, list[list[int]]]]:
    rng = np.random.default_rng(seed)
    short = list(range(1, max_seq_len)) or [1]
    lengths = {
        "empty": [0],
        "short": short,
        "exact": [max_seq_len],
        "over-long": [max_seq_len + 1, max_seq_len + 2, 2 * max_seq_len, 3 * max_seq_len],
        "mixed": [0, 1, max_seq_len, max_seq_len + 1, *short],
    }
    for batch in BATCHES:
        for case, choices in lengths.items():
            sizes = rng.choice(choices, size=batch)
            yield case, [rng.integers(1, n_items + 1, size=size).tolist() for size in sizes]


def _run_padded(session: Any, encoder: EncoderSpec, histories: list[list[int]]) -> NDArray[np.float32]:
    item_seq, seq_len = encode_sequences(
        histories, encoder.max_seq_len, padding=encoder.padding, length=encoder.max_seq_len
    )
    result: NDArray[np.float32] = session.run(["queries"], {"item_seq": item_seq, "seq_len": seq_len})[0]
    return result


def _check_attention(
    where: str, graph: EncoderGraph, session: Any, encoder: EncoderSpec, histories: list[list[int]]
) -> None:
    """Attention is torch's, with padding and without, and padding has none."""
    found = []
    for length in (None, encoder.max_seq_len):
        features = encode_sequences(histories, encoder.max_seq_len, padding=encoder.padding, length=length)
        given = session.run(["attention"], {"item_seq": features.item_seq, "seq_len": features.seq_len})[0]
        _gap(f"{where}: attention of ONNX Runtime and torch", given, _torch_outputs(graph, features)[1])
        real = features.item_seq > 0
        _gap(f"{where}: attention on padding and none", np.where(real[:, None], 0, given), np.zeros_like(given))
        found.append(given.transpose(0, 2, 1)[real])  # of each real item, in order
    _gap(f"{where}: attention with appended padding and without", found[1], found[0])


def _check_intents(
    where: str, graph: EncoderGraph, session: Any, encoder: EncoderSpec, histories: list[list[int]]
) -> None:
    """Intents are torch's, and the same with padding and without; those of an empty history mean nothing."""
    found = []
    some = np.array([bool(history) for history in histories])
    for length in (None, encoder.max_seq_len):
        features = encode_sequences(histories, encoder.max_seq_len, padding=encoder.padding, length=length)
        given = session.run(["intents"], {"item_seq": features.item_seq, "seq_len": features.seq_len})[0]
        _gap(f"{where}: intents of ONNX Runtime and torch", given, _torch_outputs(graph, features)[1])
        found.append(given[some])
    _gap(f"{where}: intents with appended padding and without", found[1], found[0])


def _gap(what: str, found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    gap = float(np.abs(found - expected).max(initial=0.0))
    if not gap <= TOLERANCE:  # NaN is a gap too
        raise ParityError(f"{what} differ by {gap:.3g}, expected at most {TOLERANCE}")
    return gap


def _same_top(
    where: str, topk: ExactTopK, wanted: NDArray[np.float32], given: NDArray[np.float32], rounding: float
) -> None:
    nothing = [np.empty(0, np.int64)] * len(wanted)
    both = zip(topk.search(wanted, TOP, nothing), topk.search(given, TOP, nothing), strict=True)
    for row, (expected, found) in enumerate(both):
        spread = float(np.ptp(expected[1])) + float(np.abs(expected[1]).max(initial=0.0))
        fault = ranking_fault(expected, found, atol=1e-5 * spread + rounding)
        if fault:
            raise ParityError(f"{where}: top {TOP} of row {row} are not torch's: {fault}")
