"""`Queue`: what its public interface promises, within one process and by name between two."""

from __future__ import annotations

import array
import gc
import itertools
import pickle
import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import isthmus
from support import Peer, object_files, wait_until

MIB = 1 << 20

Start = Callable[..., Peer]


@pytest.fixture
def q() -> Iterator[isthmus.Queue[bytes]]:
    """An anonymous queue; what a test leaves in it is thrown away without a warning."""
    handle = isthmus.Queue(type=bytes)
    yield handle
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        handle.close()


def drain(handle: isthmus.Queue[bytes]) -> list[bytes]:
    """Everything that is in a queue."""
    messages = []
    while True:
        try:
            messages.append(handle.get(timeout=0))
        except isthmus.Empty:
            return messages


def pattern(size: int) -> bytes:
    """`size` bytes in which no two places of a page look alike."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


# ---------------------------------------------------------------------------------------------- messages

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


def fill(handle: isthmus.Queue[bytes], size: int) -> int:
    """Puts messages until the queue is full; says how many."""
    count = 0
    while True:
        try:
            handle.put(bytes(size), timeout=0)
        except isthmus.Full:
            return count
        count += 1


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


# ---------------------------------------------------------------------------------------------- timeouts


def test_get_from_an_empty_queue_raises_empty_which_is_also_the_builtin_errors(
    q: isthmus.Queue[bytes],
) -> None:
    with pytest.raises(isthmus.Empty) as caught:
        q.get(timeout=0)
    for kind in (isthmus.Timeout, isthmus.IsthmusError, queue.Empty, TimeoutError):
        assert isinstance(caught.value, kind)


def test_put_into_a_full_queue_raises_full_which_is_also_the_builtin_errors() -> None:
    with isthmus.Queue(type=bytes, capacity=64 * 1024) as handle:
        fill(handle, 1000)
        with pytest.raises(isthmus.Full) as caught:
            handle.put(bytes(1000), timeout=0)
        for kind in (isthmus.Timeout, isthmus.IsthmusError, queue.Full, TimeoutError):
            assert isinstance(caught.value, kind)
        assert caught.value.sent == 0
        drain(handle)


@pytest.mark.parametrize("timeout", [0.001, 0.06, 0.25, 1])
def test_a_timeout_is_waited_out_in_full(q: isthmus.Queue[bytes], timeout: float) -> None:
    start = time.monotonic()
    with pytest.raises(isthmus.Empty):
        q.get(timeout=timeout)
    assert time.monotonic() - start >= timeout
    with pytest.raises(isthmus.Empty):
        q.get_many(5, timeout=timeout / 100)


def test_a_full_queue_waits_its_timeout_out() -> None:
    with isthmus.Queue(type=bytes, capacity=64 * 1024) as handle:
        fill(handle, 1000)
        start = time.monotonic()
        with pytest.raises(isthmus.Full):
            handle.put(bytes(1000), timeout=0.2)
        assert time.monotonic() - start >= 0.2
        drain(handle)


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), float("-inf")])
def test_a_negative_timeout_is_a_value_error_that_names_it(q: isthmus.Queue[bytes], timeout: float) -> None:
    q.put(b"x", timeout=0)
    calls: list[Callable[[], object]] = [
        lambda: q.get(timeout=timeout),
        lambda: q.put(b"y", timeout=timeout),
        lambda: q.put_many([b"y"], timeout=timeout),
        lambda: q.get_many(1, timeout=timeout),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"-1|-0\.001|nan|NaN|-inf"):
            call()
    assert drain(q) == [b"x"]


@pytest.mark.parametrize("timeout", ["1", b"1", [1]])
def test_a_timeout_that_is_no_number_is_a_type_error(q: isthmus.Queue[bytes], timeout: Any) -> None:
    q.put(b"x", timeout=0)
    with pytest.raises(TypeError):
        q.get(timeout=timeout)
    assert drain(q) == [b"x"]


@pytest.mark.parametrize("timeout", [None, 1e300, float("inf"), 1 << 40])
def test_a_timeout_without_an_end_waits_for_a_message(q: isthmus.Queue[bytes], timeout: float | None) -> None:
    putter = threading.Timer(0.05, q.put, [b"late"])
    putter.start()
    assert q.get(timeout=timeout) == b"late"
    putter.join()


def test_a_waiting_put_goes_on_when_room_is_made() -> None:
    with isthmus.Queue(type=bytes, capacity=64 * 1024) as handle:
        count = fill(handle, 1000)
        taker = threading.Timer(0.05, handle.get)
        taker.start()
        handle.put(bytes(1000))
        taker.join()
        assert len(drain(handle)) == count


def test_a_large_message_waits_until_enough_small_ones_are_gone() -> None:
    with isthmus.Queue(type=bytes, capacity=512 * 1024) as handle:
        fill(handle, 30_000)
        putter = threading.Thread(target=handle.put, args=[pattern(200_000)])
        putter.start()
        sizes = []
        while 200_000 not in sizes:
            sizes.append(len(handle.get(timeout=30)))
        putter.join()
        assert set(sizes[:-1]) == {30_000}


# ---------------------------------------------------------------------------------------------- batches


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


# ---------------------------------------------------------------------------------------------- counters


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


def limit_of(handle: isthmus.Queue[bytes]) -> int:
    """The largest message that a queue ever takes, as it says itself."""
    with pytest.raises(isthmus.TooLarge) as caught:
        handle.put(bytes(handle.capacity + 1), timeout=0)
    return caught.value.limit


@pytest.mark.parametrize("capacity", [64 << 10, 100_000, MIB, 8 * MIB])
def test_the_largest_message_is_taken_and_one_more_byte_is_not(capacity: int) -> None:
    with isthmus.Queue(type=bytes, capacity=capacity) as handle:
        largest = limit_of(handle)
        assert largest >= capacity / 2
        handle.put(pattern(largest), timeout=0)
        assert handle.get(timeout=0) == pattern(largest)
        with pytest.raises(isthmus.TooLarge):
            handle.put(bytes(largest + 1), timeout=0)


# ---------------------------------------------------------------------------------------------- the end


def test_iteration_ends_after_shutdown_and_drain(q: isthmus.Queue[bytes]) -> None:
    q.put_many([b"a", b"b", b"c"])
    q.shutdown()
    assert list(q) == [b"a", b"b", b"c"]
    assert list(q) == []


def test_after_shutdown_puts_are_refused_and_gets_drain_first(q: isthmus.Queue[bytes]) -> None:
    q.put_many([b"a", b"b", b"c"])
    q.shutdown()
    q.shutdown()
    for refused in (lambda: q.put(b"x"), lambda: q.put_many([b"x"])):
        with pytest.raises(isthmus.ShutDown):
            refused()
    assert q.get() == b"a"
    assert q.get_many(10) == [b"b", b"c"]
    for ended in (q.get, lambda: q.get(timeout=0), lambda: q.get_many(3)):
        with pytest.raises(isthmus.ShutDown) as caught:
            ended()
        assert isinstance(caught.value, EOFError)


def test_shutdown_wakes_everyone_who_waits() -> None:
    with (
        isthmus.Queue(type=bytes, capacity=64 * 1024) as empty,
        isthmus.Queue(type=bytes, capacity=64 * 1024) as full,
    ):
        fill(full, 1000)
        ended: list[str] = []

        def wait(call: Callable[[], object], what: str) -> None:
            with pytest.raises(isthmus.ShutDown):
                call()
            ended.append(what)

        threads = [
            threading.Thread(target=wait, args=[call, what])
            for what, call in {
                "get": empty.get,
                "get_many": lambda: empty.get_many(5),
                "put": lambda: full.put(bytes(1000)),
                "put_many": lambda: full.put_many([bytes(1000)]),
            }.items()
        ]
        iterated: list[list[bytes]] = []
        threads.append(threading.Thread(target=lambda: iterated.append(list(empty))))
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        empty.shutdown()
        full.shutdown()
        for thread in threads:
            thread.join(30)
        assert sorted(ended) == ["get", "get_many", "put", "put_many"]
        assert iterated == [[]]
        drain_after_shutdown(full)


def drain_after_shutdown(handle: isthmus.Queue[bytes]) -> None:
    for _ in handle:
        pass


def test_shutdown_is_seen_by_other_processes(spawn: Start) -> None:
    with isthmus.Queue("ends", type=bytes, capacity=MIB) as handle:
        peer = spawn("""
            import isthmus
            with isthmus.Queue.open("ends", type=bytes) as q:
                print("ready", flush=True)
                print(list(q), flush=True)
                try:
                    q.put(b"x")
                except isthmus.ShutDown:
                    print("refused", flush=True)
        """)
        peer.expect("ready")
        handle.put(b"one")
        handle.put(b"two")
        handle.shutdown()
        peer.expect("[b'one', b'two']")
        peer.expect("refused")
        peer.finish()


def test_ends_with_producers_gives_shutdown_after_the_last_of_them_closed(spawn: Start) -> None:
    with isthmus.Queue("stream", type=bytes, capacity=MIB, ends_with_producers=True) as handle:
        with pytest.raises(isthmus.Empty):
            handle.get(timeout=0.05)  # no producer yet is not the end
        producers = [
            spawn("""
                import sys, isthmus
                with isthmus.Queue.open("stream", type=bytes) as q:
                    q.put(b"message")
                    print("put", flush=True)
                    sys.stdin.readline()
            """)
            for _ in range(2)
        ]
        for producer in producers:
            producer.expect("put")
        producers[0].finish()
        assert handle.get() == b"message"
        assert handle.get() == b"message"
        with pytest.raises(isthmus.Empty):
            handle.get(timeout=0.2)  # one of them is still there
        producers[1].finish()
        with pytest.raises(isthmus.ShutDown):
            handle.get()
        assert list(handle) == []


def test_ends_with_producers_says_who_was_killed(spawn: Start) -> None:
    with isthmus.Queue("stream", type=bytes, capacity=MIB, ends_with_producers=True) as handle:
        producer = spawn("""
            import sys, isthmus
            q = isthmus.Queue.open("stream", type=bytes)
            q.put(b"last words")
            print("put", flush=True)
            sys.stdin.readline()
        """)
        producer.expect("put")
        producer.kill()
        assert handle.get() == b"last words"
        with pytest.raises(isthmus.PeerDied) as caught:
            handle.get()
        assert caught.value.pid == producer.pid
        with pytest.raises(isthmus.PeerDied):
            list(handle)


# ---------------------------------------------------------------------------------------------- handles


def test_a_closed_handle_says_so_in_every_call() -> None:
    handle = isthmus.Queue(type=bytes, capacity=MIB)
    states = [handle.closed]
    handle.close()
    handle.close()
    assert [*states, handle.closed] == [False, True]
    calls: list[Callable[[], object]] = [
        handle.get,
        lambda: handle.put(b"x"),
        lambda: handle.put_many([b"x"]),
        lambda: handle.get_many(1),
        handle.qsize,
        handle.empty,
        handle.stats,
        handle.shutdown,
        lambda: next(iter(handle)),
        lambda: pickle.dumps(handle),
    ]
    for call in calls:
        with pytest.raises(isthmus.ClosedError) as caught:
            call()
        assert isinstance(caught.value, ValueError)
    assert "closed" in repr(handle).lower()


def test_a_with_block_closes() -> None:
    with isthmus.Queue("block", type=bytes) as handle:
        assert handle.name == "block"
    assert handle.closed
    with pytest.raises(isthmus.ClosedError), handle:
        pass


def test_closing_a_handle_ends_the_waits_of_its_other_threads() -> None:
    handle = isthmus.Queue(type=bytes, capacity=64 * 1024)
    outcomes: list[type[BaseException]] = []

    def wait() -> None:
        try:
            handle.get()
        except BaseException as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    handle.close()
    for thread in threads:
        thread.join(30)
    assert outcomes == [isthmus.ClosedError] * 3


def test_the_last_close_removes_the_name(namespace: Path) -> None:
    first = isthmus.Queue("shared", type=bytes)
    second = isthmus.Queue.open("shared", type=bytes)
    first.close()
    assert object_files(namespace) == ["shared"]
    second.put(b"x")
    assert second.get() == b"x"
    second.close()
    assert object_files(namespace) == []


def test_a_handle_that_is_only_dropped_is_closed(namespace: Path) -> None:
    handle = isthmus.Queue("dropped", type=bytes)
    assert object_files(namespace) == ["dropped"]
    del handle
    gc.collect()
    assert object_files(namespace) == []


def test_unlink_removes_the_name_at_once_and_handles_go_on(namespace: Path) -> None:
    with isthmus.Queue("gone", type=bytes) as first, isthmus.Queue.open("gone", type=bytes) as second:
        first.unlink()
        assert object_files(namespace) == []
        with pytest.raises(FileNotFoundError):
            isthmus.Queue.open("gone", type=bytes)
        with pytest.raises(FileNotFoundError):
            second.unlink()
        second.put(b"still")
        assert first.get() == b"still"
        with isthmus.Queue("gone", type=bytes) as other:  # another object of the same name
            other.put(b"other")
            assert first.empty()
            assert other.get() == b"other"


def test_unlink_of_an_old_handle_does_not_remove_the_new_object(namespace: Path) -> None:
    with isthmus.Queue("name", type=bytes) as old:
        old.unlink()
        with isthmus.Queue("name", type=bytes):
            with pytest.raises(FileNotFoundError):
                old.unlink()
            assert object_files(namespace) == ["name"]
            old.close()
            assert object_files(namespace) == ["name"]


def test_a_persistent_queue_keeps_its_messages_without_anyone(namespace: Path) -> None:
    with isthmus.Queue("kept", type=bytes, persistent=True, capacity=MIB) as handle:
        handle.put_many([b"a", pattern(50_000)])
    assert object_files(namespace) == ["kept"]
    with isthmus.Queue.open("kept", type=bytes) as handle:
        assert handle.get_many(5) == [b"a", pattern(50_000)]
        handle.unlink()
    assert object_files(namespace) == []


# ------------------------------------------------------------------------------------------ open and create


def test_create_insists_on_new_and_open_on_existing(namespace: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        isthmus.Queue.open("absent", type=bytes)
    assert object_files(namespace) == []
    with isthmus.Queue.create("present", type=bytes):
        with pytest.raises(FileExistsError, match="present"):
            isthmus.Queue.create("present", type=bytes)
        isthmus.Queue.open("present", type=bytes).close()
        isthmus.Queue("present", type=bytes).close()
    isthmus.Queue.create("present", type=bytes).close()


def test_an_attribute_not_given_is_accepted_as_it_is() -> None:
    with (
        isthmus.Queue("odd", type=bytes, capacity=3 * MIB, persistent=False, ends_with_producers=True),
        isthmus.Queue("odd") as second,
        isthmus.Queue.open("odd") as third,
    ):
        assert second.capacity == third.capacity == 3 * MIB


def test_the_same_attributes_given_again_are_accepted() -> None:
    with (
        isthmus.Queue("same", type=bytes, capacity=MIB + 1) as first,
        isthmus.Queue("same", type=bytes, capacity=MIB + 1) as second,
    ):
        assert first.capacity == second.capacity


def test_another_capacity_is_refused_with_both_named() -> None:
    with isthmus.Queue("sized", type=bytes, capacity=MIB) as handle:
        with pytest.raises(isthmus.IncompatibleError) as caught:
            isthmus.Queue("sized", type=bytes, capacity=2 * MIB)
        text = str(caught.value).replace(",", "").replace("_", "")
        assert str(MIB) in text
        assert str(2 * MIB) in text
        assert isinstance(caught.value, ValueError)
        handle.put(b"unharmed")
        assert handle.get() == b"unharmed"


@pytest.mark.parametrize("attribute", ["persistent", "ends_with_producers"])
def test_another_kind_of_queue_is_refused(attribute: str) -> None:
    wanted: dict[str, Any] = {attribute: True}
    with isthmus.Queue("plain", type=bytes), pytest.raises(isthmus.IncompatibleError, match=attribute):
        isthmus.Queue("plain", type=bytes, **wanted)


def test_another_type_is_refused_with_both_named() -> None:
    with isthmus.Queue("typed", type=bytes) as handle:
        with pytest.raises(isthmus.IncompatibleError, match=r"bytes.*object|object.*bytes"):
            isthmus.Queue("typed", type=object)
        handle.put(b"unharmed")
        assert handle.get() == b"unharmed"


def test_a_queue_is_not_a_mutex_and_says_so() -> None:
    with isthmus.Queue("one", type=bytes), pytest.raises(isthmus.IncompatibleError) as caught:
        isthmus.Mutex("one")
    assert "queue" in str(caught.value).lower()
    assert "mutex" in str(caught.value).lower()


GOOD_NAMES = ["a", "jobs", "jobs.2", "with space", "dash-and_under", "größe", "x" * 100, "~", "a..b", "1"]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_good_name_is_the_name_of_its_file(namespace: Path, name: str) -> None:
    with isthmus.Queue(name, type=bytes) as handle:
        assert handle.name == name
        assert object_files(namespace) == [name]
        assert name in repr(handle)


BAD_NAMES = ["", ".", "..", ".hidden", "a/b", "/absolute", "../up", "nul\0byte", "x" * 256, "ü" * 200]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_is_refused_and_named(namespace: Path, name: str) -> None:
    for make in (isthmus.Queue, isthmus.Queue.create, isthmus.Queue.open, isthmus.Mutex):
        with pytest.raises(ValueError, match=r"name") as caught:
            make(name)
        if 0 < len(name) < 50 and "\0" not in name:
            assert name in str(caught.value)
    assert object_files(namespace) == []


@pytest.mark.parametrize("name", [5, b"bytes", Path("path"), ["list"]])
def test_a_name_that_is_no_text_is_a_type_error(name: Any) -> None:
    with pytest.raises(TypeError):
        isthmus.Queue(name, type=bytes)


def test_an_anonymous_queue_has_no_name_and_no_file(namespace: Path, q: isthmus.Queue[bytes]) -> None:
    assert q.name is None
    assert object_files(namespace) == []
    with pytest.raises((ValueError, isthmus.IsthmusError)):
        q.unlink()


def test_repr_tells_name_and_depth() -> None:
    with isthmus.Queue("shown", type=bytes) as handle:
        handle.put_many([b"1", b"2", b"3"])
        assert "shown" in repr(handle)
        assert "Queue" in repr(handle)
        drain(handle)


# ------------------------------------------------------------------------------------------- namespaces


def test_the_same_name_in_two_namespaces_is_two_objects(namespace: Path, other_namespace: Path) -> None:
    with (
        isthmus.Queue("twin", type=bytes) as here,
        isthmus.Queue("twin", type=bytes, namespace=other_namespace) as there,
    ):
        here.put(b"here")
        assert there.empty()
        assert here.get() == b"here"
        assert object_files(namespace) == object_files(other_namespace) == ["twin"]
        with isthmus.Queue.open("twin", type=bytes, namespace=str(other_namespace)) as again:
            there.put(b"there")
            assert again.get() == b"there"


def test_a_missing_namespace_directory_is_made_private_or_refused_by_name(tmp_path: Path) -> None:
    path = Path("/dev/shm") / f"isthmus-test-missing-{tmp_path.name}"
    refusal = str(path)
    try:
        with isthmus.Queue("x", type=bytes, namespace=path):
            assert path.stat().st_mode & 0o077 == 0
    except OSError as error:
        refusal = str(error)
    finally:
        for entry in path.iterdir() if path.is_dir() else ():
            entry.unlink()
        if path.is_dir():
            path.rmdir()
    assert str(path) in refusal


def test_a_namespace_that_is_a_symlink_is_refused(other_namespace: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(other_namespace)
    with pytest.raises((OSError, isthmus.IsthmusError), match=r"link"):
        isthmus.Queue("x", type=bytes, namespace=link)
    assert object_files(other_namespace) == []


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702])
def test_a_namespace_that_others_may_write_is_refused(other_namespace: Path, mode: int) -> None:
    other_namespace.chmod(mode)
    with pytest.raises((OSError, isthmus.IsthmusError), match=str(other_namespace)):
        isthmus.Queue("x", type=bytes, namespace=other_namespace)


def test_a_namespace_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("not a directory")
    with pytest.raises((OSError, isthmus.IsthmusError), match="file"):
        isthmus.Queue("x", type=bytes, namespace=path)


def test_objects_have_the_mode_of_the_user_alone(namespace: Path) -> None:
    with isthmus.Queue("private", type=bytes):
        assert (namespace / "private").stat().st_mode & 0o777 == 0o600


# ------------------------------------------------------------------------------------------- warnings


def test_closing_the_last_handle_of_a_queue_that_is_not_empty_warns_with_the_count() -> None:
    handle = isthmus.Queue("left", type=bytes)
    handle.put_many([b"1", b"2", b"3"])
    with pytest.warns(ResourceWarning, match=r"\b3\b.*message|message.*\b3\b"):
        handle.close()
    assert handle.closed


def test_only_the_last_handle_warns(namespace: Path) -> None:
    first = isthmus.Queue("left", type=bytes)
    second = isthmus.Queue.open("left", type=bytes)
    first.put(b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first.close()
    with pytest.warns(ResourceWarning, match="left"):
        second.close()
    assert object_files(namespace) == []


def test_dropping_the_last_handle_of_a_queue_that_is_not_empty_warns_too() -> None:
    handle = isthmus.Queue("left", type=bytes)
    handle.put(b"x")
    held = [handle]
    del handle
    with pytest.warns(ResourceWarning, match="left"):
        held.clear()


def test_a_warning_made_an_error_still_closes(namespace: Path) -> None:
    handle = isthmus.Queue("left", type=bytes)
    handle.put(b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ResourceWarning):
            handle.close()
    assert handle.closed
    assert object_files(namespace) == []


def test_an_empty_a_persistent_and_an_unlinked_queue_close_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with isthmus.Queue("empty", type=bytes) as handle:
            handle.put(b"x")
            handle.get()
        with isthmus.Queue("kept", type=bytes, persistent=True) as handle:
            handle.put(b"x")
        with isthmus.Queue.open("kept", type=bytes) as handle:
            handle.get()
            handle.unlink()


# ------------------------------------------------------------------------------------------- pickling


def test_a_named_queue_pickles_as_its_name(spawn: Start) -> None:
    with isthmus.Queue("pickled", type=bytes) as handle:
        copy = pickle.loads(pickle.dumps(handle))
        assert copy.name == "pickled"
        copy.put(b"from the copy")
        assert handle.get() == b"from the copy"
        copy.close()
        peer = spawn(
            "import pickle, sys; q = pickle.loads(bytes.fromhex(sys.argv[1])); q.put(b'hello'); q.close()",
            pickle.dumps(handle).hex(),
        )
        peer.finish()
        assert handle.get(timeout=0) == b"hello"


def test_a_named_queue_of_another_namespace_pickles_with_it(other_namespace: Path, spawn: Start) -> None:
    with isthmus.Queue("elsewhere", type=bytes, namespace=other_namespace) as handle:
        peer = spawn(
            "import pickle, sys; q = pickle.loads(bytes.fromhex(sys.argv[1])); q.put(b'hello'); q.close()",
            pickle.dumps(handle).hex(),
        )
        peer.finish()
        assert handle.get(timeout=0) == b"hello"


def test_an_anonymous_queue_pickles_through_the_living_sender(spawn: Start, q: isthmus.Queue[bytes]) -> None:
    peer = spawn(
        """
        import pickle, sys
        q = pickle.loads(bytes.fromhex(sys.argv[1]))
        q.put(q.get())
        q.put(bytes(100_000))
        print(q.name, flush=True)
        q.close()
        """,
        pickle.dumps(q).hex(),
    )
    q.put(b"ping")
    peer.expect("None")
    peer.finish()
    assert drain(q) == [b"ping", bytes(100_000)]


def test_an_anonymous_queue_pickled_within_the_process_is_the_same_queue(q: isthmus.Queue[bytes]) -> None:
    with pickle.loads(pickle.dumps(q)) as copy:
        copy.put(b"x")
        assert q.get() == b"x"
    q.put(b"y")
    assert q.get() == b"y"


def test_a_pickle_of_a_closed_anonymous_queue_opens_nothing_else() -> None:
    handle = isthmus.Queue(type=bytes, capacity=MIB)
    data = pickle.dumps(handle)
    handle.close()
    with isthmus.Queue(type=bytes, capacity=MIB), pytest.raises((isthmus.IsthmusError, OSError)):
        pickle.loads(data)  # another queue may have its descriptor's number now


# ------------------------------------------------------------------------------------------- listing


def attached_to(name: str) -> list[int]:
    """Process ids of those attached to an object."""
    return [pid for entry in isthmus.objects() if entry.name == name for pid, _ in entry.attached]


def test_objects_lists_what_is_there_and_who_is_attached(namespace: Path, spawn: Start) -> None:
    with isthmus.Queue("listed", type=bytes, capacity=MIB) as handle, isthmus.Mutex("lock"):
        peer = spawn("""
            import sys, isthmus
            q = isthmus.Queue.open("listed", type=bytes)
            print("ready", flush=True)
            sys.stdin.readline()
            q.close()
        """)
        peer.expect("ready")
        handle.put_many([b"a", b"b"])
        found = {entry.name: entry for entry in isthmus.objects()}
        assert sorted(found) == ["listed", "lock"]
        assert found["listed"].kind == "queue"
        assert found["lock"].kind == "mutex"
        assert found["listed"].depth == 2
        assert found["listed"].size == (namespace / "listed").stat().st_size
        assert peer.pid in attached_to("listed")
        peer.finish()
        wait_until(lambda: peer.pid not in attached_to("listed"), "the peer to leave the list")
        drain(handle)


def test_clean_leaves_what_is_in_use_and_persistent() -> None:
    with isthmus.Queue("used", type=bytes):
        isthmus.Queue("kept", type=bytes, persistent=True).close()
        assert isthmus.clean() == []
        assert sorted(entry.name for entry in isthmus.objects()) == ["kept", "used"]
        with isthmus.Queue.open("kept", type=bytes) as handle:
            handle.unlink()
