"""`Queue`: how much goes in, what is refused, and what it says of itself."""

from __future__ import annotations

import threading

import pytest

import isthmus
from queues import MIB, drain, fill, limit_of, pattern


def test_a_message_over_the_limit_says_its_size_the_limit_and_what_to_set() -> None:
    with isthmus.Queue(type=bytes, capacity=256 * 1024) as handle:
        size = 3 * MIB
        with pytest.raises(isthmus.TooLarge) as caught:
            handle.put(bytes(size), timeout=0)
        text = str(caught.value)
        assert str(size) in text.replace(",", "").replace("_", "")
        assert "capacity" in text
        assert sum(word.strip(".,;:()").isdigit() for word in text.split()) >= 2, text
        assert isinstance(caught.value, (ValueError, OverflowError))
        assert handle.empty()
        handle.put(b"small", timeout=0)
        assert handle.get(timeout=0) == b"small"


def test_too_large_comes_at_once_even_with_a_full_queue_and_no_timeout() -> None:
    with isthmus.Queue(type=bytes, capacity=256 * 1024) as handle:
        fill(handle, 1000)
        with pytest.raises(isthmus.TooLarge):
            handle.put(bytes(3 * MIB))
        with pytest.raises(isthmus.TooLarge):
            handle.put_many([bytes(3 * MIB)])
        drain(handle)


@pytest.mark.parametrize("size", [0, 64, 1000, 4096, 5000, 60_000])
def test_a_full_queue_takes_the_same_again_after_it_was_drained(size: int) -> None:
    with isthmus.Queue(type=bytes, capacity=512 * 1024) as handle:
        first = fill(handle, size)
        assert first >= 1
        for _ in range(5):
            assert [len(m) for m in drain(handle)] == [size] * first
            assert fill(handle, size) == first
        drain(handle)


@pytest.mark.parametrize("capacity", [64 * 1024, MIB, 8 * MIB])
def test_a_good_part_of_the_capacity_takes_messages_of_any_one_size(capacity: int) -> None:
    with isthmus.Queue(type=bytes, capacity=capacity) as handle:
        assert handle.capacity == capacity
        # A part of it is for small messages and a part for large ones: see docs/queue.md.
        for size in (1024, 4096, 20_000):
            taken = fill(handle, size) * size
            drain(handle)
            assert capacity / 4 <= taken <= capacity


def test_the_default_capacity_is_8_mib(q: isthmus.Queue[bytes]) -> None:
    assert q.capacity == 8 * MIB


@pytest.mark.parametrize("capacity", [0, -1, 1 << 62])
def test_an_impossible_capacity_is_refused_with_the_value_named(capacity: int) -> None:
    with pytest.raises((ValueError, OSError, MemoryError, OverflowError)) as caught:
        isthmus.Queue(type=bytes, capacity=capacity)
    assert str(capacity) in str(caught.value).replace(",", "").replace("_", "")


@pytest.mark.parametrize("capacity", [64 << 10, 100_000, MIB, 8 * MIB])
def test_the_largest_message_is_taken_and_one_more_byte_is_not(capacity: int) -> None:
    with isthmus.Queue(type=bytes, capacity=capacity) as handle:
        largest = limit_of(handle)
        assert largest >= capacity / 2
        handle.put(pattern(largest), timeout=0)
        assert handle.get(timeout=0) == pattern(largest)
        with pytest.raises(isthmus.TooLarge):
            handle.put(bytes(largest + 1), timeout=0)


# -------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("size", [100, 8000])
def test_put_many_into_a_queue_that_fills_up_commits_a_prefix_and_says_how_many(size: int) -> None:
    with isthmus.Queue(type=bytes, capacity=256 * 1024) as handle:
        messages = [i.to_bytes(4, "little") + bytes(size) for i in range(10_000)]
        with pytest.raises(isthmus.Full) as caught:
            handle.put_many(messages, timeout=0.05)
        sent = caught.value.sent
        assert 0 < sent < len(messages)
        assert drain(handle) == messages[:sent]


def test_put_many_waits_for_room_for_all_of_them() -> None:
    with isthmus.Queue(type=bytes, capacity=128 * 1024) as handle:
        messages = [i.to_bytes(4, "little") + bytes(1000) for i in range(2000)]
        sender = threading.Thread(target=handle.put_many, args=[messages])
        sender.start()
        got: list[bytes] = []
        while len(got) < len(messages):
            got += handle.get_many(50, timeout=30)
        sender.join()
        assert got == messages


def test_put_many_with_one_too_large_says_how_many_were_sent() -> None:
    with isthmus.Queue(type=bytes, capacity=256 * 1024) as handle:
        with pytest.raises(isthmus.TooLarge):
            handle.put_many([b"a", b"b", bytes(3 * MIB), b"c"], timeout=0)
        assert drain(handle) in ([], [b"a", b"b"])  # all refused before the first, or a prefix: never "c"


# ------------------------------------------------------------------------------------------------- counters


def test_size_and_stats_follow_what_is_put_and_got(q: isthmus.Queue[bytes]) -> None:
    assert (q.qsize(), q.empty()) == (0, True)
    q.put_many([bytes(10), bytes(5000), bytes(100_000)])
    stats = q.stats()
    assert (q.qsize(), q.empty()) == (3, False)
    assert (stats.depth, stats.put, stats.got) == (3, 3, 0)
    assert stats.bytes_in_use >= 105_010
    assert stats.capacity == q.capacity
    assert stats.attached == 1
    q.get()
    stats = q.stats()
    assert (stats.depth, stats.put, stats.got) == (2, 3, 1)
    drain(q)
    assert q.stats().depth == 0
    assert q.stats().got == 3
