"""`Queue.get_view` and `Queue.views`: a message seen where it lies, for as long as anybody looks at it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import isthmus
from queues import KIB, MIB, drain, fill, idle, limit_of, pattern, queue_of_bytes
from siege import check_capacity
from support import Peer, wait_until

Start = Callable[..., Peer]

LARGE = 100_000
SIZES = [0, 1, 64, 4096, 4097, LARGE]
BY_SIZE = pytest.mark.parametrize("size", SIZES)


@pytest.fixture
def q() -> Iterator[isthmus.Queue[bytes]]:
    with queue_of_bytes() as handle:
        yield handle


@BY_SIZE
def test_a_view_shows_the_message_as_a_buffer(q: isthmus.Queue[bytes], size: int) -> None:
    q.put(pattern(size))
    view = q.get_view(timeout=0)
    assert type(view).__name__ == "View"
    assert len(view) == size
    assert bytes(view) == pattern(size)
    with memoryview(view) as memory:
        assert (memory.readonly, memory.format, memory.ndim, memory.nbytes) == (True, "B", 1, size)
        assert memory.tobytes() == pattern(size)
    assert q.empty()
    view.release()


def test_a_view_is_indexed_as_a_memoryview_is(q: isthmus.Queue[bytes]) -> None:
    q.put(pattern(LARGE))
    view = q.get_view()
    assert (view[0], view[-1], bytes(view[5:10])) == (0, pattern(LARGE)[-1], pattern(LARGE)[5:10])
    with pytest.raises(IndexError):
        view[LARGE]
    with pytest.raises(TypeError):
        view["a"]


@BY_SIZE
def test_a_view_is_read_only_unless_asked_otherwise(q: isthmus.Queue[bytes], size: int) -> None:
    q.put_many([pattern(size)] * 2)
    view = q.get_view()
    assert view.writable is False
    with pytest.raises((BufferError, TypeError, ValueError)):
        np.frombuffer(view, dtype=np.uint8).flags.writeable = True
    view = q.get_view(writable=True)
    assert view.writable is True
    memory = memoryview(view)
    assert not memory.readonly
    memory[:] = bytes(size)
    assert bytes(view) == bytes(size)


def test_what_is_written_into_a_view_is_seen_by_nobody_else(q: isthmus.Queue[bytes]) -> None:
    messages = [pattern(LARGE, salt) for salt in range(3)]
    q.put_many(messages)
    with q.get_view(writable=True) as view:
        memoryview(view)[:] = b"\xff" * LARGE
    assert [q.get(), q.get()] == messages[1:]


@pytest.mark.parametrize("how", ["release", "with", "drop", "release twice"])
@BY_SIZE
def test_the_memory_comes_back_when_the_view_is_done(q: isthmus.Queue[bytes], size: int, how: str) -> None:
    q.put(pattern(size))
    view = q.get_view()
    assert (q.stats().bytes_in_use > 0) == (size > 4096), "small ones are copied, large ones stay"
    match how:
        case "release":
            view.release()
        case "release twice":
            view.release()
            view.release()
        case "with":
            with view as same:
                assert same is view
        case _:
            del view
    assert idle(q)


def test_a_released_view_gives_no_buffer_any_more(q: isthmus.Queue[bytes]) -> None:
    for size in (10, LARGE):
        q.put(bytes(size))
        view = q.get_view()
        view.release()
        assert "released" in repr(view)
        with pytest.raises(BufferError, match="released"):
            memoryview(view)
        with pytest.raises(BufferError):
            view[0]


def test_an_export_keeps_the_memory_after_the_view_is_released(q: isthmus.Queue[bytes]) -> None:
    q.put(pattern(LARGE))
    view = q.get_view()
    first, second = memoryview(view), memoryview(view)[10:]
    view.release()
    first.release()
    assert not idle(q)
    fill(q, 5000)
    assert second == pattern(LARGE)[10:]
    drain(q)
    second.release()
    assert idle(q)


def test_an_export_keeps_the_memory_after_the_view_is_gone(q: isthmus.Queue[bytes]) -> None:
    q.put(pattern(LARGE))
    array = np.frombuffer(q.get_view(), dtype=np.uint8)
    part = array[50_000:]
    del array
    gc.collect()
    fill(q, 5000)
    assert part.tobytes() == pattern(LARGE)[50_000:]
    drain(q)
    assert not idle(q)
    del part
    assert idle(q)


def test_numpy_works_on_a_view_in_place(q: isthmus.Queue[bytes]) -> None:
    numbers = np.arange(20_000, dtype="i8")
    q.put(numbers.tobytes())
    view = q.get_view()
    seen = np.frombuffer(view, dtype="i8")
    assert (seen == numbers).all()
    assert not seen.flags.writeable
    assert not seen.flags.owndata
    assert seen.ctypes.data % 4096 == 0


def test_a_held_view_is_never_overwritten(q: isthmus.Queue[bytes]) -> None:
    """The rest of the memory is used up and given back many times around it."""
    q.put_many([pattern(LARGE), pattern(5000, salt=1)])
    held, small_one = q.get_view(), q.get_view()
    taken = []
    for size in (1000, 5000, 20_000, 70_000, 5000, 150_000) * 5:
        taken.append(fill(q, size))
        assert bytes(held) == pattern(LARGE)
        assert bytes(small_one) == pattern(5000, salt=1)
        drain(q)
    assert min(taken) >= 1
    held.release()
    small_one.release()
    check_capacity(q)


def test_held_memory_is_missing_from_the_capacity_until_it_is_released(q: isthmus.Queue[bytes]) -> None:
    largest = limit_of(q)
    q.put(bytes(largest))
    view = q.get_view()
    with pytest.raises(isthmus.Full):
        q.put(bytes(5000), timeout=0)
    q.put(b"small ones have memory of their own", timeout=0)
    q.get()
    putter = threading.Thread(target=q.put, args=[pattern(largest)])
    putter.start()
    wait_until(lambda: q.stats().producers_waiting == 1, "the producer to wait")
    view.release()
    putter.join(30)
    assert q.get(timeout=0) == pattern(largest)


def test_a_view_of_another_process_s_message_stays_while_that_process_goes_on(spawn: Start) -> None:
    with queue_of_bytes("shown") as handle:
        peer = spawn("""
            import isthmus
            with isthmus.Queue.open("shown", type=bytes) as q:
                for round in range(200):
                    q.put(bytes([round]) * 60_000, timeout=30)
        """)
        first = handle.get_view(timeout=30)
        for number in range(1, 200):
            with handle.get_view(timeout=30) as view:
                assert view[0] == view[-1] == number
            assert first[0] == first[-1] == 0
        peer.finish()
        assert bytes(first) == bytes(60_000)


def test_closing_the_queue_leaves_its_views(q: isthmus.Queue[bytes]) -> None:
    with isthmus.Queue("closed", type=bytes, capacity=MIB) as other:
        with queue_of_bytes("closed") as handle:
            handle.put_many([pattern(LARGE), pattern(LARGE, 1), b"small"])
            view, with_export, small = handle.get_view(), handle.get_view(), handle.get_view()
            export = memoryview(with_export)
            with_export.release()
        fill(other, 5000)
        assert bytes(view) == pattern(LARGE)
        assert export == pattern(LARGE, 1)
        assert bytes(small) == b"small"
        drain(other)
        view.release()
        assert not idle(other)
        del export
        assert idle(other)


def test_a_view_outlives_the_queue_itself() -> None:
    with queue_of_bytes() as handle:
        handle.put(pattern(LARGE))
        view = handle.get_view()
    del handle
    gc.collect()
    assert bytes(view) == pattern(LARGE)


def test_get_view_waits_and_refuses_as_get_does(q: isthmus.Queue[bytes]) -> None:
    for timeout in (0, 0.01):
        with pytest.raises(isthmus.Empty):
            q.get_view(timeout=timeout)
    with pytest.raises(ValueError, match="-1"):
        q.get_view(timeout=-1)
    putter = threading.Timer(0.05, q.put, [pattern(5000)])
    putter.start()
    assert bytes(q.get_view()) == pattern(5000)
    putter.join()
    q.shutdown()
    with pytest.raises(isthmus.ShutDown):
        q.get_view()
    q.close()
    with pytest.raises(isthmus.ClosedError):
        q.get_view()


def test_views_iterates_until_the_end_and_copes_with_memory_for_one(q: isthmus.Queue[bytes]) -> None:
    with queue_of_bytes(capacity=64 * KIB) as small:
        size = 20_000  # of the 32 KiB for large ones
        seen = []

        def look() -> None:
            for view in small.views():
                with view:
                    seen.append(bytes(view))

        looker = threading.Thread(target=look)
        looker.start()
        for salt in range(10):
            small.put(pattern(size, salt), timeout=30)
        small.shutdown()
        looker.join(30)
        assert seen == [pattern(size, salt) for salt in range(10)]
        assert idle(small)


def test_views_of_many_threads_are_of_different_messages(q: isthmus.Queue[bytes]) -> None:
    seen: list[int] = []

    def look() -> None:
        for view in q.views():
            with view, memoryview(view) as memory:
                assert memory[:8] == memory[-8:]
                seen.append(int.from_bytes(memory[:8], "little"))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(400):
        q.put(number.to_bytes(8, "little") * (1 + number % 3 * 1000), timeout=30)
    q.shutdown()
    for thread in threads:
        thread.join(30)
    assert sorted(seen) == list(range(400))
    assert idle(q)


@pytest.mark.parametrize("writable", [False, True])
def test_a_view_of_an_array_is_an_array_on_the_queue_s_memory(writable: bool) -> None:
    with isthmus.Queue(type=np.ndarray, capacity=MIB) as handle:
        given = np.arange(30_000, dtype="f8").reshape(100, 300)
        handle.put(given)
        seen: Any = handle.get_view(writable=writable)
        assert (seen.dtype, seen.shape, seen.flags.writeable) == (given.dtype, given.shape, writable)
        assert not idle(handle)
        part = seen[50:, ::2]
        del seen
        handle.put(given + 1)
        assert (part == given[50:, ::2]).all()
        assert (handle.get() == given + 1).all()
        del part
        assert idle(handle)


def test_a_view_of_an_object_keeps_the_memory_of_its_buffers() -> None:
    with isthmus.Queue(type=object, capacity=MIB) as handle:
        handle.put({"name": "picture", "pixels": np.arange(60_000, dtype="u1")})
        seen = handle.get_view()
        assert (seen["name"], seen["pixels"].flags.writeable) == ("picture", False)
        pixels = seen.pop("pixels")
        handle.put(bytes(100_000))
        assert (pixels == np.arange(60_000, dtype="u1")).all()
        assert handle.get() == bytes(100_000)
        assert not idle(handle)
        del pixels
        assert idle(handle)
