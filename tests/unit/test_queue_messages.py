"""`Queue`: what goes in comes out, one by one and in batches: the same bytes, in the same order."""

from __future__ import annotations

import array
import itertools
from collections.abc import Callable
from typing import Any

import pytest

import isthmus
from queues import MIB, drain, pattern

SIZES = [0, 1, 7, 8, 9, 63, 64, 65, 255, 256, 1000, 2047, 2048, 2049]
SIZES += [limit + step for limit in (4096, 8192, 65536) for step in (-65, -64, -17, -16, -8, -1, 0, 1, 8, 64)]
SIZES += [MIB - 1, MIB, MIB + 1, 3 * MIB + 5]


@pytest.mark.parametrize("size", SIZES)
def test_a_message_of_any_size_comes_back_as_the_same_bytes(q: isthmus.Queue[bytes], size: int) -> None:
    message = pattern(size)
    q.put(message, timeout=5)
    got = q.get(timeout=5)
    assert type(got) is bytes
    assert got == message


def test_messages_come_in_the_order_they_were_put_whatever_their_sizes(q: isthmus.Queue[bytes]) -> None:
    sizes = [0, 5000, 1, 100_000, 4096, 4097, 64, 300_000, 0, 0, 4095, 2]
    messages = [pattern(size) + bytes([i]) for i, size in enumerate(sizes)]
    for message in messages:
        q.put(message, timeout=0)
    assert [q.get(timeout=0) for _ in messages] == messages


def test_the_ring_wraps_many_times_without_mixing_messages() -> None:
    with isthmus.Queue(type=bytes, capacity=64 * 1024) as handle:
        numbers = itertools.count()
        expected = itertools.count()
        for size in [1, 60, 64, 100, 1000, 4000, 5000, 9000] * 400:
            handle.put(next(numbers).to_bytes(8, "little") + pattern(size), timeout=0)
            if handle.qsize() >= 3:
                got = handle.get(timeout=0)
                assert got[:8] == next(expected).to_bytes(8, "little")
                assert got[8:] == pattern(len(got) - 8)
        assert [int.from_bytes(m[:8], "little") for m in drain(handle)] == [next(expected) for _ in range(2)]


BUFFERS: list[tuple[str, Callable[[], Any]]] = [
    ("bytes", lambda: b"abc" * 5),
    ("bytearray", lambda: bytearray(b"abc" * 5)),
    ("memoryview of bytes", lambda: memoryview(b"abc" * 5)),
    ("memoryview of a part", lambda: memoryview(b"xxabcyy")[2:5]),
    ("writable memoryview", lambda: memoryview(bytearray(b"abc"))),
    ("array of doubles", lambda: array.array("d", [1.5, 2.5, -3.0])),
    ("cast memoryview", lambda: memoryview(bytes(range(24))).cast("I", [2, 3])),
    ("large bytearray", lambda: bytearray(pattern(70_000))),
    ("large array", lambda: array.array("q", range(5000))),
]


@pytest.mark.parametrize(("kind", "make"), BUFFERS, ids=[kind for kind, _ in BUFFERS])
def test_every_contiguous_buffer_is_taken_raw(
    q: isthmus.Queue[bytes], kind: str, make: Callable[[], Any]
) -> None:
    buffer: Any = make()
    q.put(buffer, timeout=0)
    assert q.get(timeout=0) == memoryview(buffer).tobytes(), kind


def test_numpy_arrays_are_taken_raw(q: isthmus.Queue[bytes]) -> None:
    numpy = pytest.importorskip("numpy")
    large = numpy.arange(100_000, dtype="i8").reshape(100, 1000)
    for given in (numpy.arange(10, dtype="f4"), large, numpy.zeros(0)):
        q.put(given, timeout=0)
        assert q.get(timeout=0) == given.tobytes()


def test_a_buffer_with_gaps_is_copied_in_order_or_refused_with_a_reason(q: isthmus.Queue[bytes]) -> None:
    every_second = memoryview(bytes(range(40)))[::2]
    message: Any = every_second
    refusal = ""
    try:
        q.put(message, timeout=0)
    except (TypeError, ValueError, BufferError) as error:
        refusal = str(error)
    if refusal:
        assert "contiguous" in refusal
        assert q.empty()
    else:
        assert q.get(timeout=0) == every_second.tobytes()


@pytest.mark.parametrize("message", ["text", 5, None, ["a", "list"], object()])
def test_what_is_no_buffer_is_a_type_error_and_leaves_the_queue_as_it_was(
    q: isthmus.Queue[bytes], message: Any
) -> None:
    with pytest.raises(TypeError):
        q.put(message, timeout=0)
    with pytest.raises(TypeError):
        q.put_many([b"first", message], timeout=0)
    assert len(drain(q)) <= 1  # put_many may have committed the messages before the wrong one
    q.put(b"still works", timeout=0)
    assert q.get(timeout=0) == b"still works"


# -------------------------------------------------------------------------------------------------- batches


def test_put_many_and_get_many_keep_the_order(q: isthmus.Queue[bytes]) -> None:
    messages = [pattern(i * 37 % 6000) for i in range(300)]
    assert q.put_many(messages) == 300
    assert q.qsize() == 300
    got = q.get_many(100)
    assert 1 <= len(got) <= 100
    while len(got) < 300:
        more = q.get_many(1000)
        assert more
        got += more
    assert got == messages


def test_get_many_gives_all_that_is_there_up_to_the_limit(q: isthmus.Queue[bytes]) -> None:
    q.put_many([bytes([i]) for i in range(10)])
    assert q.get_many(4, timeout=0) == [bytes([i]) for i in range(4)]
    assert q.get_many(100, timeout=0) == [bytes([i]) for i in range(4, 10)]
    with pytest.raises(isthmus.Empty):
        q.get_many(1, timeout=0)


def test_get_many_does_not_wait_for_more_than_one(q: isthmus.Queue[bytes]) -> None:
    q.put(b"only")
    assert q.get_many(1000) == [b"only"]


@pytest.mark.parametrize("limit", [0, -1])
def test_get_many_of_nothing_is_refused(q: isthmus.Queue[bytes], limit: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        q.get_many(limit, timeout=0)


def test_put_many_of_nothing_sends_nothing(q: isthmus.Queue[bytes]) -> None:
    assert q.put_many([], timeout=0) == 0
    assert q.empty()


def test_put_many_takes_mixed_buffers_and_a_tuple(q: isthmus.Queue[bytes]) -> None:
    numbers = array.array("i", [1, 2, 3])
    mixed: Any = (b"a", bytearray(b"b"), memoryview(b"c"), numbers)
    assert q.put_many(mixed, timeout=0) == 4
    assert drain(q) == [b"a", b"b", b"c", numbers.tobytes()]
