"""Histories to queries: the encoder graph of one artefact behind one method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.artefact.directory import INTENTS, Artefact
from service.artefact.files import ENCODER, ITEMS
from service.artefact.manifest import EncoderSpec, Manifest, RankerManifest, TensorSpec
from service.artefact.onnx_file import external_tensors
from service.errors import ArtefactError, ArtefactRefused
from service.features.sequence import SequenceFeatures, encode_sequences
from service.inference.reading import IntentItems, Reading, without_padding
from service.inference.runtime import Device, make_session
from service.inference.similarity import ItemSimilarity

ATTENTION: Final = "attention"
N_INTENT_ITEMS: Final = 3  # that an intent is known by

# How ONNX Runtime spells the element types that come up, in a refusal at least.
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}
# What one more run of an encoder costs, in columns of padding that it would have read instead (0.04 ms at d = 64).
_RUN_IN_COLUMNS = 64


class Retriever:
    """The encoder of one artefact, checked against its manifest and ready to run.

    Args:
        table: the item table from `place`, for the encoder to look items up in: then a GPU holds it once, and top-k
            uses the same. By default the encoder maps `items.npy` itself.

    Raises:
        ArtefactRefused: the graph cannot be loaded, or its tensors are not the manifest's.
        SettingsError: ONNX Runtime or the device is not there.
    """

    def __init__(self, artefact: Artefact, *, intra_op_threads: int, device: Device, table: Any = None) -> None:
        self.artefact = artefact
        self._table = table  # must live as long as the session
        self._session = open_graph(artefact.path / ENCODER, artefact.manifest, intra_op_threads, device, table)
        # The execution provider that the session really uses.
        self.provider = str(self._session.get_providers()[0])
        rows = artefact.intent_items
        self._intents = None if rows is None else ItemSimilarity(rows, artefact.available)

    def encode(self, histories: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Queries float32 (batch, n_queries, dim) of item indices, oldest first; the newest max_seq_len are read.

        Raises:
            UnknownItemIndex: an index outside 1..n_items.
            ArtefactError: the graph failed, or gave another shape than the manifest says.
        """
        encoder = self.artefact.manifest.encoder
        if encoder.fixed_length is not None or self.provider != "CPUExecutionProvider":
            return self.encode_together(histories)
        queries = np.empty((len(histories), encoder.n_queries, encoder.dim), np.float32)
        for rows in split_by_length([min(len(history), encoder.max_seq_len) for history in histories]):
            queries[rows] = self.encode_together([histories[row] for row in rows])
        return queries

    def encode_together(self, histories: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """The same in one run, all of them padded to the longest."""
        manifest = self.artefact.manifest
        return run_encoder(self._session, manifest.encoder, manifest.n_items, histories)

    def read(self, histories: Sequence[Sequence[int]]) -> list[Reading]:
        """Queries as `encode` gives them, of at least one history, and attention and intents where the graph has them.

        Raises:
            UnknownItemIndex, ArtefactError: as `encode`.
        """
        manifest = self.artefact.manifest
        names = [name for name in (ATTENTION, INTENTS) if any(output.name == name for output in manifest.outputs)]
        run = _run(self._session, manifest.encoder, manifest.n_items, histories, names)
        others, n = dict(zip(names, run.others, strict=True)), len(histories)
        shapes = {
            ATTENTION: (n, manifest.encoder.n_queries, run.inputs.item_seq.shape[1]),
            INTENTS: (n, 2, manifest.encoder.dim),
        }
        for name, found in others.items():
            if found.shape != shapes[name]:
                raise ArtefactError(f"{ENCODER}: {name} has shape {found.shape}, the manifest says {shapes[name]}")
        attention: Sequence[NDArray[np.float32] | None] = [None] * n
        if ATTENTION in others:
            attention = without_padding(others[ATTENTION], run.inputs.seq_len, manifest.encoder.padding)
        intents: Sequence[IntentItems | None] = [None] * n
        if INTENTS in others:
            intents = [self._known_by(told) for told in others[INTENTS]]
        return list(map(Reading, run.queries, attention, intents))

    def _known_by(self, intents: NDArray[np.float32]) -> IntentItems | None:
        """Of the intents (2, dim) of one history."""
        if self._intents is None:
            return None
        items, cosines = zip(*self._intents.near(intents, N_INTENT_ITEMS), strict=True)
        return IntentItems(np.stack(items), np.stack(cosines))


def split_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Rows to encode together, shorter ones first: apart where that spares more padding than a run costs.

    Most histories are short, and one long one makes all rows of its batch as long as itself.
    """
    by_size: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        by_size.setdefault(length.bit_length(), []).append(row)
    parts: list[list[int]] = []
    rows: list[int] = []
    longest = 0
    for size in sorted(by_size):
        its_longest = max([lengths[row] for row in by_size[size]])
        if rows and len(rows) * (its_longest - longest) > _RUN_IN_COLUMNS:
            parts.append(rows)
            rows = []
        rows, longest = rows + by_size[size], its_longest
    return [*parts, rows]


def open_graph(
    path: Path, manifest: Manifest | RankerManifest, intra_op_threads: int, device: Device, table: Any
) -> Any:
    """A session of the graph in `path`, whose tensors are the manifest's; `table` stands in for `items.npy`, if any.

    Raises:
        ArtefactRefused: the graph cannot be loaded, or its tensors are not the manifest's.
        SettingsError: ONNX Runtime or the device is not there.
    """
    label = f"{manifest.name}/{manifest.version}"
    try:
        shared = {} if table is None else dict.fromkeys(tables_of(path), table)
        session = make_session(path, device, intra_op_threads, shared=shared)
    except ArtefactError as error:
        raise ArtefactRefused(label, [str(error)]) from error
    faults = graph_faults(session, manifest.inputs, manifest.outputs, graph=path.name)
    if faults:
        raise ArtefactRefused(label, faults)
    return session


def tables_of(path: Path) -> list[str]:
    """Names of a graph's tensors that are the item table."""
    return [tensor.name for tensor in external_tensors(path) if tensor.location == ITEMS]


def run_encoder(
    session: Any, encoder: EncoderSpec, n_items: int, histories: Sequence[Sequence[int]]
) -> NDArray[np.float32]:
    """Queries float32 (batch, n_queries, dim) of one `run` over all histories."""
    if not histories:
        return np.empty((0, encoder.n_queries, encoder.dim), np.float32)
    return _run(session, encoder, n_items, histories, ()).queries


def has_attention(manifest: Manifest) -> bool:
    """Whether the graph says how much each item of a history weighs in each query."""
    return any(output.name == ATTENTION for output in manifest.outputs)


class _Run(NamedTuple):
    inputs: SequenceFeatures
    queries: NDArray[np.float32]
    others: list[NDArray[np.float32]]


def _run(
    session: Any, encoder: EncoderSpec, n_items: int, histories: Sequence[Sequence[int]], others: Sequence[str]
) -> _Run:
    """Queries and the named other outputs; the graph computes what only unnamed ones need in no case."""
    inputs = encode_sequences(
        histories, encoder.max_seq_len, padding=encoder.padding, length=encoder.fixed_length, n_items=n_items
    )
    try:
        queries, *rest = session.run(["queries", *others], inputs._asdict())
    except Exception as error:  # ONNX Runtime's exceptions share no base class below Exception
        raise ArtefactError(
            f"{ENCODER}: run failed for item_seq {inputs.item_seq.shape}: {str(error).splitlines()[0]}"
        ) from error
    expected = (len(histories), encoder.n_queries, encoder.dim)
    if queries.shape != expected:
        raise ArtefactError(f"{ENCODER}: queries have shape {queries.shape}, the manifest says {expected}")
    return _Run(inputs, queries, rest)


def graph_faults(
    session: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, graph: str = ENCODER
) -> list[str]:
    """One sentence for each input or output of the file `graph` that is not the expected one."""
    return [
        *_tensor_faults(graph, "input", session.get_inputs(), inputs),
        *_tensor_faults(graph, "output", session.get_outputs(), outputs),
    ]


def _tensor_faults(graph: str, kind: str, found: Sequence[Any], expected: Sequence[TensorSpec]) -> list[str]:
    tensors = {tensor.name: tensor for tensor in found}
    faults = []
    for spec in expected:
        tensor = tensors.pop(spec.name, None)
        wanted = f"{spec.dtype} ({', '.join(map(str, spec.shape))})"
        if tensor is None:
            faults.append(f"{graph}: {kind} {spec.name!r} is missing, expected {wanted}")
        elif _DTYPES.get(tensor.type) != spec.dtype or not _same_shape(kind, tensor.shape, spec.shape):
            has = f"{_DTYPES.get(tensor.type, tensor.type)} ({', '.join(map(str, tensor.shape))})"
            faults.append(f"{graph}: {kind} {spec.name!r} is {has}, expected {wanted}")
    for name in tensors:
        faults.append(f"{graph}: {kind} {name!r} is one too many")
    return faults


def _same_shape(kind: str, found: Sequence[int | str | None], expected: Sequence[int | str]) -> bool:
    """Ranks agree; a dynamic axis is dynamic in both; a size agrees, or the graph leaves it open (outputs only)."""
    if len(found) != len(expected):
        return False
    for has, wants in zip(found, expected, strict=True):
        if isinstance(has, int) and has != wants:
            return False
        if not isinstance(has, int) and isinstance(wants, int) and kind == "input":
            return False
    return True
