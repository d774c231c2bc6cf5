"""What crosses the socket between HTTP processes and the process that owns the models: fixed little-endian frames.

    header   payload bytes u32, kind u8, zeros 3
    HELLO    "AGLW", version u16, models u16, then per model: sha256 of its manifest 32, label bytes u16,
             device bytes u16, top-k bytes u16, recall f32 (NaN = exact), label, device, top-k
                                                                                          owner -> front, first of all
    ASK      id u32, model u16 (place in HELLO), operation u8, bulk u8, k u32, n_row u32, n_excluded u32,
             granted_ms f32, deadline f64 (seconds of CLOCK_MONOTONIC, which all processes of one machine share),
             row i32 x n_row, excluded i32 x n_excluded                                   front -> owner
    CANCEL   id u32                                                                       front -> owner
    ANSWER   id u32, n u32, queue_ms f32, infer_ms f32, n_queries u16 (0 = nothing is told of the history), dim u16,
             n_read u16 (0 = no attention), n_known u16 (0 = no intents), items i32 x n, scores f32 x n,
             queries f32 x n_queries x dim, attention f32 x n_queries x n_read,
             items that intents are known by i32 x 2 x n_known, cosines f32 x 2 x n_known owner -> front
    REFUSAL  id u32, reason u8, zero u8, retry_after_s u16 (0 = none), detail UTF-8       owner -> front
    RANK     id u32, model u16, bulk u8, zero u8, scenario u16, z_size u16 (0 = nothing was told of the user),
             n_history u32, n_candidates u32, granted_ms f32, deadline f64, history i32 x n_history,
             candidates i32 x n_candidates, z f32 x z_size; its ANSWER has places of candidates for items
                                                                                          front -> owner

Nothing is ever unpickled, and a frame that is not exactly one of these is a `FrameError`: the connection ends.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.deadline import Deadline
from service.errors import DeadlineExceeded, EngineUnavailable, ModelFailed, Overloaded, RequestError
from service.inference.engine import Operation, Ranked
from service.inference.ranker import RankRow
from service.inference.reading import IntentItems, Reading

VERSION: Final = 4
HELLO, ASK, CANCEL, ANSWER, REFUSAL, RANK = 1, 2, 3, 4, 5, 6
# A request names at most 500 items of a history and some thousands to leave out; this is room for 250,000.
MAX_PAYLOAD: Final = 1 << 20
MAX_K: Final = 10_000

_MAGIC: Final = b"AGLW"
_HEADER = struct.Struct("<IB3x")
_HELLO = struct.Struct("<4sHH")
_HELLO_MODEL = struct.Struct("<32sHHHf")
_ASK = struct.Struct("<IHBBIIIfd")
_CANCEL = struct.Struct("<I")
_ANSWER = struct.Struct("<IIffHHHH")
_REFUSAL = struct.Struct("<IBxH")
_RANK = struct.Struct("<IHBxHHIIfd")

_OPERATIONS: tuple[Operation, ...] = ("recommend", "similar", "explain")
_REASONS: tuple[type[RequestError], ...] = (Overloaded, DeadlineExceeded, ModelFailed, EngineUnavailable)


class FrameError(ValueError):
    """The bytes are not a frame of this protocol. The message says what was found, never what it contained."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """One model that the owner runs: name@version, sha256 of its manifest, and how it runs there.

    `recall` is of the best 20; none where top-k is exact.
    """

    label: str
    sha256: str
    device: str
    top_k: str
    recall: float | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One question, to a retriever or a ranker. `model` is the place in the greeting; indices are of its item table."""

    id: int
    model: int
    operation: Operation
    bulk: bool
    k: int
    granted_ms: float
    ends_at: float
    row: list[int] | RankRow
    excluded: NDArray[np.int64]


def frame(kind: int, payload: bytes) -> bytes:
    """Header and payload."""
    if len(payload) > MAX_PAYLOAD:
        raise FrameError(f"a payload of {len(payload)} bytes, expected at most {MAX_PAYLOAD}")
    return _HEADER.pack(len(payload), kind) + payload


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, memoryview]]:
        """Kind and payload of every frame that is complete by now.

        Raises:
            FrameError: a header that announces more than MAX_PAYLOAD, or an unknown kind.
        """
        data = self._rest + data if self._rest else data
        view, start = memoryview(data), 0
        while len(data) - start >= _HEADER.size:
            length, kind = _HEADER.unpack_from(data, start)
            if length > MAX_PAYLOAD:
                raise FrameError(f"a header that announces {length} bytes, expected at most {MAX_PAYLOAD}")
            if not HELLO <= kind <= RANK:
                raise FrameError(f"a frame of kind {kind}, expected {HELLO} to {RANK}")
            end = start + _HEADER.size + length
            if end > len(data):
                break
            yield kind, view[start + _HEADER.size : end]
            start = end
        self._rest = data[start:]

    @property
    def is_empty(self) -> bool:
        """Whether the stream could end here without cutting a frame."""
        return not self._rest


def pack_hello(models: Sequence[Greeting], version: int = VERSION) -> bytes:
    parts = [_HELLO.pack(_MAGIC, version, len(models))]
    for model in models:
        names = [name.encode() for name in (model.label, model.device, model.top_k)]
        recall = math.nan if model.recall is None else model.recall
        parts += [_HELLO_MODEL.pack(bytes.fromhex(model.sha256), *map(len, names), recall), *names]
    return frame(HELLO, b"".join(parts))


def unpack_hello(payload: memoryview) -> list[Greeting]:
    """The owner's models, in the order that `Ask.model` counts.

    Raises:
        FrameError: not a greeting, or of another version of this protocol.
    """
    magic, version, n_models = _fixed(_HELLO, payload, "HELLO")
    if magic != _MAGIC:
        raise FrameError("a greeting of somebody else")
    if version != VERSION:
        raise FrameError(f"version {version} of the protocol, expected {VERSION}")
    models, at = [], _HELLO.size
    for _ in range(n_models):
        digest, *sizes, recall = _fixed(_HELLO_MODEL, payload[at:], "HELLO")
        at += _HELLO_MODEL.size
        names = []
        for size in sizes:
            names.append(_text(bytes(payload[at : at + size])))
            at += size
        label, device, top_k = names
        models.append(Greeting(label, digest.hex(), device, top_k, None if math.isnan(recall) else recall))
    _ends(payload, at, "HELLO")
    return models


def pack_ask(
    id_: int,
    model: int,
    operation: Operation,
    row: Sequence[int],
    k: int,
    excluded: NDArray[np.int64],
    deadline: Deadline,
    *,
    bulk: bool,
) -> bytes:
    numbers = (id_, model, _OPERATIONS.index(operation), bulk, k, len(row), len(excluded))
    fixed = _ASK.pack(*numbers, deadline.granted_ms, deadline.ends_at)
    return frame(ASK, fixed + np.array(row, "<i4").tobytes() + excluded.astype("<i4").tobytes())


def unpack_ask(payload: memoryview) -> Ask:
    """One question; whether its indices exist is for the owner to say.

    Raises:
        FrameError: not a question.
    """
    id_, model, operation, bulk, k, n_row, n_excluded, granted_ms, ends_at = _fixed(_ASK, payload, "ASK")
    _ends(payload, _ASK.size + 4 * (n_row + n_excluded), "ASK")
    # A history may be empty: there are models that need none.
    is_empty = n_row < 1 and operation == _OPERATIONS.index("similar")
    if operation >= len(_OPERATIONS) or bulk > 1 or not 1 <= k <= MAX_K or is_empty:
        raise FrameError(f"an ASK with operation {operation}, bulk {bulk}, k {k} and a row of {n_row}")
    if not (math.isfinite(ends_at) and math.isfinite(granted_ms)):
        raise FrameError("an ASK whose deadline is not a number")
    numbers = np.frombuffer(payload, "<i4", n_row + n_excluded, _ASK.size)
    return Ask(
        id_,
        model,
        _OPERATIONS[operation],
        bool(bulk),
        k,
        granted_ms,
        ends_at,
        numbers[:n_row].tolist(),
        numbers[n_row:].astype(np.int64),
    )


def pack_rank(id_: int, model: int, row: RankRow, deadline: Deadline, *, bulk: bool) -> bytes:
    z = np.empty(0, "<f4") if row.user_z is None else row.user_z.astype("<f4")
    numbers = (id_, model, bulk, row.scenario_index, len(z), len(row.history), len(row.candidates))
    fixed = _RANK.pack(*numbers, deadline.granted_ms, deadline.ends_at)
    return frame(RANK, fixed + np.array([*row.history, *row.candidates], "<i4").tobytes() + z.tobytes())


def unpack_rank(payload: memoryview) -> Ask:
    """A question to a ranker, for all of its candidates; whether it can answer is for the owner to say.

    Raises:
        FrameError: not a question.
    """
    id_, model, bulk, scenario, z_size, n_history, n, granted_ms, ends_at = _fixed(_RANK, payload, "RANK")
    _ends(payload, _RANK.size + 4 * (n_history + n + z_size), "RANK")
    if bulk > 1 or not 1 <= n <= MAX_K:
        raise FrameError(f"a RANK with bulk {bulk} and {n} candidates")
    if not (math.isfinite(ends_at) and math.isfinite(granted_ms)):
        raise FrameError("a RANK whose deadline is not a number")
    numbers = np.frombuffer(payload, "<i4", n_history + n, _RANK.size).tolist()
    z = np.frombuffer(payload, "<f4", z_size, _RANK.size + 4 * (n_history + n)).astype(np.float32)
    row = RankRow(numbers[:n_history], scenario, numbers[n_history:], z if z_size else None)
    return Ask(id_, model, "rank", bool(bulk), n, granted_ms, ends_at, row, np.empty(0, np.int64))


def pack_cancel(id_: int) -> bytes:
    return frame(CANCEL, _CANCEL.pack(id_))


def unpack_cancel(payload: memoryview) -> int:
    (id_,) = _fixed(_CANCEL, payload, "CANCEL")
    _ends(payload, _CANCEL.size, "CANCEL")
    return int(id_)


def pack_answer(id_: int, ranked: Ranked) -> bytes:
    told, sizes, reading = b"", (0, 0, 0, 0), ranked.reading
    if reading is not None:
        attention, intents = reading.attention, reading.intents
        n_read = 0 if attention is None else attention.shape[1]
        n_known = 0 if intents is None else intents.items.shape[1]
        sizes = (*reading.queries.shape, n_read, n_known)
        told = reading.queries.astype("<f4").tobytes()
        if attention is not None:
            told += attention.astype("<f4").tobytes()
        if intents is not None:
            told += intents.items.astype("<i4").tobytes() + intents.cosines.astype("<f4").tobytes()
    fixed = _ANSWER.pack(id_, len(ranked.items), ranked.queue_ms, ranked.infer_ms, *sizes)
    return frame(ANSWER, fixed + ranked.items.astype("<i4").tobytes() + ranked.scores.astype("<f4").tobytes() + told)


def unpack_answer(payload: memoryview) -> tuple[int, Ranked]:
    """
    Raises:
        FrameError: not an answer.
    """
    id_, n, queue_ms, infer_ms, n_queries, dim, n_read, n_known = _fixed(_ANSWER, payload, "ANSWER")
    n_told = n_queries * (dim + n_read)
    _ends(payload, _ANSWER.size + 8 * n + 4 * n_told + 16 * n_known, "ANSWER")
    items = np.frombuffer(payload, "<i4", n, _ANSWER.size).astype(np.int64)
    scores = np.frombuffer(payload, "<f4", n, _ANSWER.size + 4 * n).astype(np.float32)
    if not n_queries:
        return id_, Ranked(items, scores, queue_ms, infer_ms)
    told = np.frombuffer(payload, "<f4", n_told, _ANSWER.size + 8 * n).astype(np.float32)
    queries, attention = told[: n_queries * dim], told[n_queries * dim :]
    intents, at = None, _ANSWER.size + 8 * n + 4 * n_told
    if n_known:
        known = np.frombuffer(payload, "<i4", 2 * n_known, at).astype(np.int64)
        cosines = np.frombuffer(payload, "<f4", 2 * n_known, at + 8 * n_known).astype(np.float32)
        intents = IntentItems(known.reshape(2, n_known), cosines.reshape(2, n_known))
    reading = Reading(
        queries.reshape(n_queries, dim), attention.reshape(n_queries, n_read) if n_read else None, intents
    )
    return id_, Ranked(items, scores, queue_ms, infer_ms, reading)


def pack_refusal(id_: int, error: RequestError) -> bytes:
    """Of an error that has a reason of its own; anything else is the model's fault."""
    reason = _REASONS.index(type(error)) if type(error) in _REASONS else _REASONS.index(ModelFailed)
    detail = error.detail.encode()[:1_024]
    return frame(REFUSAL, _REFUSAL.pack(id_, reason, min(error.retry_after_s or 0, 0xFFFF)) + detail)


def unpack_refusal(payload: memoryview) -> tuple[int, RequestError]:
    """
    Raises:
        FrameError: not a refusal.
    """
    id_, reason, retry_after_s = _fixed(_REFUSAL, payload, "REFUSAL")
    if reason >= len(_REASONS):
        raise FrameError(f"a REFUSAL for reason {reason}")
    detail = bytes(payload[_REFUSAL.size :]).decode(errors="replace")
    return id_, _REASONS[reason](detail, retry_after_s=retry_after_s or None)


def _fixed(layout: struct.Struct, payload: memoryview, name: str) -> tuple[Any, ...]:
    if len(payload) < layout.size:
        raise FrameError(f"a {name} of {len(payload)} bytes, expected at least {layout.size}")
    return layout.unpack_from(payload)


def _ends(payload: memoryview, at: int, name: str) -> None:
    if len(payload) != at:
        raise FrameError(f"a {name} of {len(payload)} bytes, its own numbers say {at}")


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise FrameError("a name that is not UTF-8") from None
