"""`Queue.reserve`: a message that is filled where it will be taken from."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import isthmus
from queues import KIB, MIB, drain, fill, idle, limit_of, pattern, queue_of_bytes
from support import Peer, wait_until

Start = Callable[..., Peer]

LARGE = 100_000
SIZES = [0, 1, 4096, 4097, LARGE]
BY_SIZE = pytest.mark.parametrize("size", SIZES)


@pytest.fixture
def q() -> Iterator[isthmus.Queue[bytes]]:
    with queue_of_bytes() as handle:
        yield handle


def reserve(handle: isthmus.Queue[Any], *size: Any, **options: Any) -> Any:
    """A reservation; untyped, because what it is depends on the type of the queue."""
    return handle.reserve(*size, **options)


@BY_SIZE
def test_what_is_filled_in_place_is_the_message(q: isthmus.Queue[bytes], size: int) -> None:
    with reserve(q, size) as block:
        assert type(block) is memoryview
        assert (block.readonly, block.format, block.nbytes) == (False, "B", size)
        block[:] = pattern(size)
        assert q.empty(), "nobody sees it before it is complete"
    assert q.get(timeout=0) == pattern(size)
    assert idle(q)


def test_the_message_s_place_is_where_it_was_put_not_where_it_was_reserved(q: isthmus.Queue[bytes]) -> None:
    with reserve(q, LARGE) as late, reserve(q, 10) as early:
        late[:], early[:] = bytes(LARGE), bytes(10)
        q.put(b"first")
    assert [len(message) for message in drain(q)] == [5, 10, LARGE]


def test_it_is_put_by_hand_too(q: isthmus.Queue[bytes]) -> None:
    for size in SIZES:
        reservation = reserve(q, size)
        assert len(reservation) == size
        with memoryview(reservation) as block:
            block[:] = pattern(size)
        reservation.put()
        assert q.get(timeout=0) == pattern(size)


def test_another_process_gets_it(spawn: Start) -> None:
    with queue_of_bytes("shown") as handle:
        peer = spawn("""
            import isthmus
            with isthmus.Queue.open("shown", type=bytes) as q:
                for size in (10, 100_000):
                    with q.reserve(size) as block:
                        block[:] = bytes([7]) * size
        """)
        assert [handle.get(timeout=30) for _ in range(2)] == [b"\7" * 10, b"\7" * LARGE]
        peer.finish()


# ---------------------------------------------------------------------------------------------- shortened


@pytest.mark.parametrize(
    ("size", "length"), [(LARGE, 70_000), (LARGE, 4097), (LARGE, 9), (LARGE, 0), (99, 5)]
)
def test_only_what_is_left_of_a_shortened_one_is_put(q: isthmus.Queue[bytes], size: int, length: int) -> None:
    reservation = reserve(q, size)
    with reservation as block:
        block[:] = pattern(size)
        reservation.shorten(length)
        assert len(reservation) == length
    used = q.stats().bytes_in_use
    assert used < length + 3 * 4096, "the rest of the memory is free again"
    assert q.get(timeout=0) == pattern(size)[:length]
    assert idle(q)


def test_shortening_may_be_thought_over_up_to_what_was_reserved(q: isthmus.Queue[bytes]) -> None:
    reservation = reserve(q, 5000)
    with reservation as block:
        block[:] = pattern(5000)
        for length in (10, 5000, 4999):
            reservation.shorten(length)
        for wrong in (-1, 5001):
            with pytest.raises(ValueError, match=str(wrong)):
                reservation.shorten(wrong)
    assert q.get() == pattern(5000)[:4999]
    with pytest.raises(RuntimeError):
        reservation.shorten(1)


# ---------------------------------------------------------------------------------------------- not put


class Mishap(Exception):
    pass


@pytest.mark.parametrize("how", ["exception", "cancel", "cancel twice", "cancel in the block", "drop"])
@BY_SIZE
def test_what_is_not_put_gives_its_memory_back(q: isthmus.Queue[bytes], size: int, how: str) -> None:
    reservation = reserve(q, size)
    if size > 4096:
        assert not idle(q)
    match how:
        case "exception":
            with pytest.raises(Mishap), reservation:
                raise Mishap
        case "cancel":
            reservation.cancel()
        case "cancel twice":
            reservation.cancel()
            reservation.cancel()
        case "cancel in the block":
            with reservation:
                reservation.cancel()
        case _:
            del reservation
            gc.collect()
    assert q.empty()
    assert idle(q)


@BY_SIZE
def test_it_is_put_once_and_never_after_it_was_cancelled(q: isthmus.Queue[bytes], size: int) -> None:
    reservation = reserve(q, size)
    reservation.put()
    for call in (reservation.put, reservation.__enter__):
        with pytest.raises(RuntimeError, match="put already"):
            call()
    reservation.cancel()
    cancelled = reserve(q, size)
    cancelled.cancel()
    for call in (cancelled.put, cancelled.__enter__):
        with pytest.raises(RuntimeError, match="cancelled"):
            call()
    assert [len(message) for message in drain(q)] == [size]
    assert idle(q)


@BY_SIZE
def test_the_block_is_taken_away_with_the_message(q: isthmus.Queue[bytes], size: int) -> None:
    with reserve(q, size) as put:
        pass
    reservation = reserve(q, size)
    with contextlib.suppress(Mishap), reservation as cancelled:
        raise Mishap
    for block in (put, cancelled):
        with pytest.raises(ValueError, match="released"):
            block[:0]
    with pytest.raises(BufferError, match="cancelled"):
        memoryview(reservation)
    drain(q)


# ---------------------------------------------------------------------------------------------- refused


def test_what_never_fits_and_what_does_not_fit_now_are_told_apart(q: isthmus.Queue[bytes]) -> None:
    largest = limit_of(q)
    with pytest.raises(isthmus.TooLarge) as caught:
        q.reserve(largest + 1)
    assert (caught.value.size, caught.value.limit) == (largest + 1, largest)
    held = reserve(q, largest)
    for timeout in (0, 0.01):
        with pytest.raises(isthmus.Full) as full:
            q.reserve(5000, timeout=timeout)
        assert "5000" in str(full.value)
        assert "capacity" in str(full.value)
    held.cancel()
    assert idle(q)


@pytest.mark.parametrize("size", [10, 5000])
def test_a_full_ring_refuses_the_put_and_the_memory_comes_back(size: int) -> None:
    with queue_of_bytes(capacity=64 * KIB) as handle:
        reservation = reserve(handle, size, timeout=0)
        fill(handle, 0)
        with pytest.raises(isthmus.Full):
            reservation.put()
        with pytest.raises(RuntimeError):
            reservation.put()
        drain(handle)
        assert idle(handle)


@pytest.mark.parametrize("size", [10, 5000])
def test_leaving_the_block_waits_for_a_place_in_the_queue(size: int) -> None:
    with queue_of_bytes(capacity=64 * KIB) as handle:

        def put() -> None:
            with reserve(handle, size) as block:
                block[:] = pattern(size)
                fill(handle, 0)

        putter = threading.Thread(target=put)
        putter.start()
        wait_until(lambda: handle.stats().producers_waiting == 1, "the producer to wait")
        handle.get_many(100)
        putter.join(30)
        assert drain(handle)[-1] == pattern(size)


def test_a_reservation_waits_until_memory_is_free() -> None:
    with queue_of_bytes(capacity=64 * KIB) as handle:
        held = reserve(handle, limit_of(handle))
        sizes: list[int] = []
        waiter = threading.Thread(target=lambda: sizes.append(len(reserve(handle, 20_000, timeout=30))))
        waiter.start()
        wait_until(lambda: handle.stats().producers_waiting == 1, "the producer to wait")
        held.cancel()
        waiter.join(30)
        assert sizes == [20_000]


def test_the_timeout_counts_again_for_the_place_in_the_queue() -> None:
    with queue_of_bytes(capacity=64 * KIB) as handle:
        reservation = reserve(handle, 10, timeout=0.2)
        fill(handle, 0)
        time.sleep(0.25)  # filling it takes longer than the timeout
        start = time.monotonic()
        with pytest.raises(isthmus.Full):
            reservation.put()
        assert time.monotonic() - start >= 0.2


@pytest.mark.parametrize("wrong", [-1, -(1 << 40)])
def test_a_negative_size_is_a_value_error(q: isthmus.Queue[bytes], wrong: int) -> None:
    with pytest.raises(ValueError, match=str(wrong)):
        q.reserve(wrong)


@pytest.mark.parametrize("arguments", [("5",), (1.5,), (None,), ((2, 3),), (5, "f4"), (b"x",)])
def test_what_is_no_size_is_a_type_error(q: isthmus.Queue[bytes], arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        q.reserve(*arguments)
    assert idle(q)


@pytest.mark.parametrize("size", [10, LARGE])
def test_the_end_of_the_queue_refuses_it_and_the_memory_comes_back(size: int) -> None:
    with isthmus.Queue("ends", type=bytes, capacity=MIB) as other:
        with queue_of_bytes("ends") as handle:
            late, later = reserve(handle, size), reserve(handle, size)
            handle.shutdown()
            with pytest.raises(isthmus.ShutDown):
                reserve(handle, LARGE)
            with pytest.raises(isthmus.ShutDown):
                late.put()
        with pytest.raises(isthmus.ClosedError):
            later.put()
        with pytest.raises(isthmus.ClosedError):
            reserve(handle, size)
        del late, later
        assert idle(other)


@pytest.mark.parametrize("how", ["cancel", "put", "drop"])
@pytest.mark.parametrize("size", [10, LARGE])
def test_a_block_that_is_still_in_use_disturbs_nobody(size: int, how: str) -> None:
    with isthmus.Queue("ends", type=bytes, capacity=MIB) as other:
        with queue_of_bytes("ends") as handle:
            reservation = reserve(handle, size)
        block = memoryview(reservation)
        match how:
            case "cancel":
                reservation.cancel()
            case "put":
                with pytest.raises(isthmus.ClosedError):
                    reservation.put()
            case _:
                del reservation
        fill(other, 5000)
        block[:] = b"\xff" * size
        assert set(b"".join(drain(other))) == {0}
        assert idle(other) == (size == 10)
        block.release()
        assert idle(other)


def test_types_without_a_fixed_size_have_none() -> None:
    with (
        isthmus.Queue(type=object, capacity=MIB) as handle,
        pytest.raises(isthmus.Unsupported, match="bytes and of arrays"),
    ):
        handle.reserve(100)


# ---------------------------------------------------------------------------------------------- arrays


@pytest.fixture
def arrays() -> Iterator[isthmus.Queue[Any]]:
    with isthmus.Queue(type=np.ndarray, capacity=MIB) as handle:
        yield handle


@pytest.mark.parametrize("shape", [(), 5, (3, 4), (100, 300), (0, 3)])
@pytest.mark.parametrize("dtype", [None, "u1", "i4", "c16", [("x", "f4"), ("n", "i8")]])
def test_an_array_is_filled_in_place(arrays: isthmus.Queue[Any], shape: Any, dtype: Any) -> None:
    with reserve(arrays, shape, dtype) as array:
        expected: Any = np.ndarray(shape, np.float64 if dtype is None else dtype)
        assert (array.dtype, array.shape, array.flags.writeable) == (expected.dtype, expected.shape, True)
        expected.reshape(-1).view("u1")[:] = np.arange(expected.nbytes) % 251
        array[...] = expected
    got = arrays.get(timeout=0)
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    assert got.tobytes() == expected.tobytes()
    assert idle(arrays)


def test_an_array_that_is_put_is_read_only_and_one_given_back_too(arrays: isthmus.Queue[Any]) -> None:
    with reserve(arrays, 20_000) as put:
        put[:] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        put[0] = 2.0
    with contextlib.suppress(Mishap), reserve(arrays, (100, 100), "f4") as cancelled:
        raise Mishap
    with pytest.raises(ValueError, match="read-only"):
        cancelled[0] = 2.0
    assert (arrays.get(timeout=0) == 1.0).all()
    assert arrays.empty()


def test_an_array_of_a_wrong_kind_is_refused(arrays: isthmus.Queue[Any]) -> None:
    with pytest.raises(isthmus.TooLarge):
        arrays.reserve((1 << 20, 8))
    with pytest.raises(ValueError, match="negative"):
        arrays.reserve((-1, 3))
    for shape, dtype in [("ab", None), (5, "no dtype"), (5, object), (1.5, None)]:
        with pytest.raises(TypeError):
            reserve(arrays, shape, dtype)
    assert idle(arrays)
