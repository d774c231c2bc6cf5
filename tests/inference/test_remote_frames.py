"""Frames are read back as they were written; whatever else comes is refused, and never read as something it is not."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.deadline import Deadline
from service.errors import DeadlineExceeded, EngineUnavailable, ModelFailed, NotReady, Overloaded, RequestError
from service.inference.engine import Operation, Ranked
from service.inference.ranker import RankRow
from service.inference.reading import IntentItems, Reading
from service.inference.remote_frames import (
    ANSWER,
    ASK,
    CANCEL,
    HELLO,
    MAX_K,
    MAX_PAYLOAD,
    RANK,
    REFUSAL,
    VERSION,
    FrameError,
    FrameReader,
    Greeting,
    frame,
    pack_answer,
    pack_ask,
    pack_cancel,
    pack_hello,
    pack_rank,
    pack_refusal,
    unpack_answer,
    unpack_ask,
    unpack_cancel,
    unpack_hello,
    unpack_rank,
    unpack_refusal,
)

UNPACK = {
    HELLO: unpack_hello,
    ASK: unpack_ask,
    CANCEL: unpack_cancel,
    ANSWER: unpack_answer,
    REFUSAL: unpack_refusal,
    RANK: unpack_rank,
}
ids = st.integers(0, 2**32 - 1)
indices = st.integers(0, 2**31 - 1)
floats = st.floats(width=32, allow_nan=False)
greetings = st.lists(
    st.builds(
        Greeting,
        st.text(max_size=40),
        st.binary(min_size=32, max_size=32).map(bytes.hex),
        st.text(max_size=20),
        st.text(max_size=20),
        st.none() | floats,
    ),
    max_size=4,
)


def only(data: bytes) -> tuple[int, memoryview]:
    """The one frame that the bytes hold."""
    reader = FrameReader()
    (found,) = reader.feed(data)
    assert reader.is_empty
    return found


def an_ask(bulk: bool = False) -> bytes:
    return pack_ask(7, 0, "recommend", [3, 1], 20, np.array([5]), Deadline(50, 12.45, 12.5), bulk=bulk)


def a_rank(z: list[float] | None = None) -> bytes:
    row = RankRow([3, 1], 2, [5, 4, 6], None if z is None else np.array(z, np.float32))
    return pack_rank(7, 1, row, Deadline(50, 12.45, 12.5), bulk=False)


def a_reading(n_queries: int, dim: int, n_read: int, n_known: int = 0) -> Reading:
    """Numbers that differ; 0 items read is a graph without attention, 0 known ones a graph without intents."""
    queries = np.arange(n_queries * dim, dtype=np.float32).reshape(n_queries, dim)
    attention = np.arange(n_queries * n_read, dtype=np.float32).reshape(n_queries, n_read) / 7
    known = np.arange(2 * n_known).reshape(2, n_known) + 5
    intents = IntentItems(known, (known / 9).astype(np.float32)) if n_known else None
    return Reading(queries, attention if n_read else None, intents)


def some_frames() -> list[bytes]:
    return [
        pack_hello([Greeting("a@1", "ab" * 32, "CPU", "scan", 0.5)]),
        an_ask(),
        pack_cancel(7),
        pack_answer(7, Ranked(np.array([2, 1]), np.array([0.5, 0.25], np.float32), 1.0, 2.0)),
        pack_answer(7, Ranked(np.array([2]), np.array([0.5], np.float32), 1.0, 2.0, a_reading(2, 3, 4, 3))),
        a_rank([0.5, -1.0]),
        pack_refusal(7, Overloaded("full", retry_after_s=1)),
    ]


@given(
    ids,
    st.integers(0, 2**16 - 1),
    st.sampled_from(["recommend", "similar", "explain"]),
    st.lists(indices, min_size=1, max_size=60),
    st.integers(1, MAX_K),
    st.lists(indices, max_size=60),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(1, 60_000),
    st.booleans(),
)
def test_a_question_is_read_back_as_it_was_asked(
    id_: int,
    model: int,
    operation: Operation,
    row: list[int],
    k: int,
    excluded: list[int],
    ends_at: float,
    granted_ms: int,
    bulk: bool,
) -> None:
    deadline = Deadline(granted_ms, 0.0, ends_at)
    kind, payload = only(pack_ask(id_, model, operation, row, k, np.array(excluded, np.int64), deadline, bulk=bulk))
    ask = unpack_ask(payload)

    assert kind == ASK
    assert (ask.id, ask.model, ask.operation, ask.bulk, ask.k) == (id_, model, operation, bulk, k)
    assert (ask.granted_ms, ask.ends_at) == (granted_ms, ends_at)
    assert (ask.row, ask.excluded.tolist(), ask.excluded.dtype) == (row, excluded, np.int64)


@given(
    ids,
    st.integers(0, 2**16 - 1),
    st.lists(indices, max_size=60),
    st.integers(0, 2**16 - 1),
    st.lists(indices, min_size=1, max_size=60),
    st.none() | st.lists(floats, min_size=1, max_size=8),
    st.booleans(),
)
def test_a_question_to_a_ranker_is_read_back_as_it_was_asked(
    id_: int,
    model: int,
    history: list[int],
    scenario: int,
    candidates: list[int],
    z: list[float] | None,
    bulk: bool,
) -> None:
    asked = RankRow(history, scenario, candidates, None if z is None else np.array(z, np.float32))
    kind, payload = only(pack_rank(id_, model, asked, Deadline(50, 0.0, 12.5), bulk=bulk))
    ask = unpack_rank(payload)

    assert kind == RANK
    assert (ask.id, ask.model, ask.operation, ask.bulk, ask.k) == (id_, model, "rank", bulk, len(candidates))
    assert (ask.granted_ms, ask.ends_at, ask.excluded.tolist()) == (50, 12.5, [])
    assert isinstance(ask.row, RankRow)
    assert (ask.row.history, ask.row.scenario_index, ask.row.candidates) == (history, scenario, candidates)
    assert (None if ask.row.user_z is None else ask.row.user_z.tolist()) == z


@given(ids, st.lists(st.tuples(indices, floats), max_size=60), floats, floats)
def test_an_answer_is_read_back_as_it_was_given(
    id_: int, found: list[tuple[int, float]], queue_ms: float, infer_ms: float
) -> None:
    items, scores = np.array([item for item, _ in found], np.int64), np.array([score for _, score in found], np.float32)
    kind, payload = only(pack_answer(id_, Ranked(items, scores, queue_ms, infer_ms)))
    given_id, ranked = unpack_answer(payload)

    assert (kind, given_id, ranked.queue_ms, ranked.infer_ms) == (ANSWER, id_, queue_ms, infer_ms)
    assert (ranked.items.tolist(), ranked.items.dtype) == (items.tolist(), np.int64)
    assert (ranked.scores.tolist(), ranked.scores.dtype) == (scores.tolist(), np.float32)


@pytest.mark.parametrize("n_known", [0, 3])
@pytest.mark.parametrize("n_read", [0, 1, 5])
@pytest.mark.parametrize("n_items", [0, 2])
def test_what_was_read_of_a_history_is_read_back(n_items: int, n_read: int, n_known: int) -> None:
    told = a_reading(3, 4, n_read, n_known)
    items, scores = np.arange(1, n_items + 1), np.ones(n_items, np.float32)
    _, ranked = unpack_answer(only(pack_answer(7, Ranked(items, scores, 1.0, 2.0, told)))[1])

    assert ranked.items.tolist() == items.tolist()
    assert ranked.reading is not None
    np.testing.assert_array_equal(ranked.reading.queries, told.queries)
    if told.attention is None:
        assert ranked.reading.attention is None
    else:
        np.testing.assert_array_equal(ranked.reading.attention, told.attention)
    if told.intents is None:
        assert ranked.reading.intents is None
    else:
        assert ranked.reading.intents is not None
        np.testing.assert_array_equal(ranked.reading.intents.items, told.intents.items)
        np.testing.assert_array_equal(ranked.reading.intents.cosines, told.intents.cosines)


@given(greetings)
def test_a_greeting_is_read_back_as_it_was_said(models: list[Greeting]) -> None:
    kind, payload = only(pack_hello(models))
    assert (kind, unpack_hello(payload)) == (HELLO, models)


@given(ids)
def test_a_cancellation_is_read_back(id_: int) -> None:
    kind, payload = only(pack_cancel(id_))
    assert (kind, unpack_cancel(payload)) == (CANCEL, id_)


@pytest.mark.parametrize(
    ("error", "read_back"),
    [
        (Overloaded("full", retry_after_s=3), Overloaded),
        (DeadlineExceeded("late"), DeadlineExceeded),
        (ModelFailed("broke"), ModelFailed),
        (EngineUnavailable("away", retry_after_s=1), EngineUnavailable),
        (NotReady("of no reason here"), ModelFailed),
    ],
)
def test_a_refusal_keeps_its_reason_its_words_and_when_to_come_back(
    error: RequestError, read_back: type[RequestError]
) -> None:
    kind, payload = only(pack_refusal(9, error))
    id_, refusal = unpack_refusal(payload)

    assert (kind, id_, type(refusal)) == (REFUSAL, 9, read_back)
    assert (refusal.detail, refusal.retry_after_s) == (error.detail, error.retry_after_s)


@given(st.lists(st.integers(1, 40), max_size=40))
def test_frames_survive_any_cutting_of_the_stream(cuts: list[int]) -> None:
    stream, found, reader, start = b"".join(some_frames()), [], FrameReader(), 0
    for size in [*cuts, len(stream)]:
        found += [frame(kind, bytes(payload)) for kind, payload in reader.feed(stream[start : start + size])]
        start += size

    assert found == some_frames()
    assert reader.is_empty


@pytest.mark.parametrize(
    "whole", some_frames(), ids=["hello", "ask", "cancel", "answer", "explained", "rank", "refusal"]
)
def test_a_frame_that_is_cut_off_inside_is_refused(whole: bytes) -> None:
    """With a header that agrees: the reader hands it on, its numbers do not fit it."""
    kind, payload = only(whole)
    shortest = 8 if kind == REFUSAL else len(payload)  # a refusal's words may be any
    for size in range(shortest):
        _, cut = only(frame(kind, bytes(payload[:size])))
        with pytest.raises(FrameError):
            UNPACK[kind](cut)


@pytest.mark.parametrize("whole", some_frames()[:6], ids=["hello", "ask", "cancel", "answer", "explained", "rank"])
def test_a_frame_with_something_behind_it_is_refused(whole: bytes) -> None:
    kind, payload = only(whole)
    with pytest.raises(FrameError):
        UNPACK[kind](only(frame(kind, bytes(payload) + b"\0"))[1])


def test_a_header_that_announces_too_much_is_refused_before_anything_is_kept() -> None:
    with pytest.raises(FrameError, match=f"announces {MAX_PAYLOAD + 1} bytes"):
        list(FrameReader().feed(struct.pack("<IB3x", MAX_PAYLOAD + 1, ASK)))
    with pytest.raises(FrameError, match="a payload of"):
        frame(ASK, bytes(MAX_PAYLOAD + 1))


@given(st.sampled_from(sorted(UNPACK)), st.binary(max_size=200))
def test_garbage_is_a_frame_error_or_reads_as_what_it_says(kind: int, garbage: bytes) -> None:
    """Never another exception, and never numbers that are not there."""
    try:
        UNPACK[kind](memoryview(garbage))
    except FrameError:
        return
    assert len(garbage) >= 4


@given(st.binary(min_size=8, max_size=200))
def test_a_stream_of_garbage_ends_in_a_frame_error_or_in_waiting_for_more(garbage: bytes) -> None:
    reader = FrameReader()
    try:
        for kind, payload in reader.feed(garbage):
            assert kind in UNPACK
            assert len(payload) <= MAX_PAYLOAD
    except FrameError:
        return
    assert reader.is_empty or len(garbage) >= 8


@pytest.mark.parametrize(
    ("field", "at", "layout", "value"),
    [
        ("operation", 6, "<B", 3),
        ("bulk", 7, "<B", 2),
        ("k of nothing", 8, "<I", 0),
        ("k of everything", 8, "<I", MAX_K + 1),
        ("a budget that is no number", 20, "<f", math.inf),
        ("a deadline that is no number", 24, "<d", math.nan),
    ],
)
def test_a_question_with_an_impossible_field_is_refused(field: str, at: int, layout: str, value: float) -> None:
    payload = bytearray(only(an_ask())[1])
    struct.pack_into(layout, payload, at, value)
    with pytest.raises(FrameError, match="an ASK"):
        unpack_ask(memoryview(payload))


@pytest.mark.parametrize(
    ("field", "at", "layout", "value"),
    [
        ("bulk", 6, "<B", 2),
        ("a budget that is no number", 20, "<f", math.inf),
        ("a deadline that is no number", 24, "<d", math.nan),
    ],
)
def test_a_question_to_a_ranker_with_an_impossible_field_is_refused(
    field: str, at: int, layout: str, value: float
) -> None:
    payload = bytearray(only(a_rank())[1])
    struct.pack_into(layout, payload, at, value)
    with pytest.raises(FrameError, match="a RANK"):
        unpack_rank(memoryview(payload))


def test_a_question_to_a_ranker_without_candidates_is_refused() -> None:
    empty = pack_rank(1, 0, RankRow([1], 0, []), Deadline(50, 0, 1), bulk=False)
    with pytest.raises(FrameError, match="0 candidates"):
        unpack_rank(only(empty)[1])


def test_a_question_about_nothing_is_refused() -> None:
    empty = pack_ask(1, 0, "similar", [], 5, np.array([4]), Deadline(50, 0, 1), bulk=False)
    with pytest.raises(FrameError, match="a row of 0"):
        unpack_ask(only(empty)[1])


def test_a_greeting_of_another_version_or_another_program_is_refused() -> None:
    with pytest.raises(FrameError, match=f"version {VERSION + 1} of the protocol, expected {VERSION}"):
        unpack_hello(only(pack_hello([], version=VERSION + 1))[1])
    with pytest.raises(FrameError, match="somebody else"):
        unpack_hello(memoryview(b"HTTP\1\0\0\0"))


def test_the_numbers_of_a_question_are_little_endian() -> None:
    """By hand, so that a machine with the other order could talk to this one."""
    expected = struct.pack("<IB3x", 32 + 12, ASK)
    expected += bytes([7, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]) + struct.pack("<fd", 50, 12.5)
    expected += bytes([3, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0])
    assert an_ask() == expected
    expected = struct.pack("<IB3x", 32 + 24, RANK)
    expected += bytes([7, 0, 0, 0, 1, 0, 0, 0, 2, 0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0]) + struct.pack("<fd", 50, 12.5)
    expected += bytes([3, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 4, 0, 0, 0, 6, 0, 0, 0]) + struct.pack("<f", 0.5)
    assert a_rank([0.5]) == expected
