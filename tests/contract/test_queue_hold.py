"""`Queue`, in every form: views, reservations, leases, handshakes; and readiness, of every kind of queue."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import isthmus
from forms import Form, begin
from kinds import Kind, Queues, can
from queues import KIB, LEASES_OF_64_KIB, drain, fill, idle, pattern
from support import PATIENCE, wait_until

BY_SIZE = pytest.mark.parametrize("size", [0, 10, 4097, 100_000])


class Mishap(Exception):
    pass


# ---------------------------------------------------------------------------------------------------- views


@can("views")
@BY_SIZE
def test_a_view_shows_the_message_until_it_is_released(q: Any, size: int) -> None:
    q.put(pattern(size))
    with q.get_view() as view:
        q.put_many([bytes(50_000)] * 3)
        assert bytes(view) == pattern(size)
        assert memoryview(view).readonly
    with pytest.raises((ValueError, BufferError)):
        memoryview(view)
    assert len(drain(q)) == 3
    assert idle(q)


@can("views")
def test_a_writable_view_is_ones_own(q: Any) -> None:
    q.put(pattern(9000))
    with q.get_view(writable=True) as view:
        memoryview(view)[:3] = b"abc"
        assert bytes(view) == b"abc" + pattern(9000)[3:]


@can("views")
def test_views_are_held_one_at_a_time(q: Any) -> None:
    q.put_many([pattern(9000, salt) for salt in range(3)])
    salts = []
    for number, view in enumerate(q.views()):
        salts.append(bytes(view) == pattern(9000, number))
        del view
        if number == 2:
            q.shutdown()
    assert salts == [True] * 3
    assert idle(q)


@can("views")
@pytest.mark.parametrize("way", ["views", "leases"])
def test_who_waits_for_the_next_does_not_hold_the_last(q: Any, way: str) -> None:
    q.put(pattern(9000))

    def work() -> int:
        count = 0
        for held in getattr(q, way)():
            if way == "leases":
                held.ack()
            count += 1
            del held
        return count

    working = begin(work)
    wait_until(lambda: q.stats().consumers_waiting == 1, "it to wait for the next")
    gc.collect()
    assert idle(q)
    q.shutdown()
    assert working.result(PATIENCE) == 1


# ---------------------------------------------------------------------------------------------- reservations


@can("reservations")
@BY_SIZE
def test_a_reservation_is_filled_in_place(q: Any, size: int) -> None:
    with q.reserve(size) as block:
        assert len(block) == size
        block[:] = pattern(size)
        assert q.empty()
    assert q.get() == pattern(size)
    assert idle(q)


@can("reservations")
@BY_SIZE
def test_an_exception_gives_the_memory_back(q: Any, size: int) -> None:
    with pytest.raises(Mishap), q.reserve(size):
        raise Mishap
    assert q.empty()
    assert idle(q)


def test_a_reservation_has_a_size_and_a_level_as_messages_have(form: Form) -> None:
    with form.Queue(type=bytes, priorities=3) as q:
        q.put(b"x", priority=1)
        with q.reserve(1, priority=2) as block:
            block[:] = b"r"
        assert [q.get(), q.get()] == [b"r", b"x"]
        for wrong in (-1, 3, 300):
            with pytest.raises(ValueError, match="priority"):
                q.reserve(1, priority=wrong).__enter__()
        with pytest.raises(isthmus.TooLarge) as caught:
            q.reserve(q.message_max + 1).__enter__()
        assert caught.value.size > caught.value.limit == q.message_max
        assert idle(q)


@can("reservations")
def test_a_reservation_may_be_shortened(q: Any) -> None:
    reservation = q.reserve(90_000)
    with reservation as block:
        block[:5] = b"hello"
        reservation.shorten(5)
    assert q.get() == b"hello"
    assert idle(q)


def test_arrays_are_reserved_and_seen_as_arrays(form: Form) -> None:
    with form.Queue(type=np.ndarray) as q:
        with q.reserve((50, 20), "f4") as array:
            array[:] = 7
        with pytest.raises(Mishap), q.reserve(3000):
            raise Mishap
        q.put(np.arange(5000))
        got = q.get()
        assert (got.shape, got.dtype, got.sum()) == ((50, 20), np.dtype("f4"), 7000)
        view = q.get_view()
        assert view.sum() == np.arange(5000).sum()
        del view, got, array
        assert idle(q)


def test_arrays_wait_for_room(form: Form) -> None:
    with form.Queue(type=np.ndarray, capacity=64 * KIB) as q:
        while True:
            try:
                q.put(np.zeros(900), timeout=0)
            except isthmus.Full:
                break
        with pytest.raises(isthmus.Full):
            q.reserve(900, timeout=0.01).__enter__()

        def work() -> None:
            with q.reserve(900) as array:
                array[:] = 5

        working = begin(work)
        wait_until(lambda: q.stats().producers_waiting == 1, "it to wait")
        q.get()
        working.result(PATIENCE)
        assert drain(q)[-1][0] == 5


def test_only_queues_of_bytes_and_arrays_reserve(form: Form) -> None:
    with form.Queue(type=dict[str, int]) as q, pytest.raises(isthmus.Unsupported):
        q.reserve(10).__enter__()


# --------------------------------------------------------------------------------------------------- leases


@can("leases")
@BY_SIZE
def test_leaving_the_block_acknowledges_and_an_exception_gives_back(q: Any, size: int) -> None:
    q.put_many([pattern(size), b"second"])
    for delivery in (1, 2):
        job = q.lease()
        assert (job.message, job.delivery_count) == (pattern(size), delivery)
        assert q.stats()[-2:] == (1, 0)
        with pytest.raises(Mishap), job:
            raise Mishap
    with q.lease() as job:
        assert (job.message, job.delivery_count) == (pattern(size), 3)
    assert drain(q) == [b"second"]
    assert idle(q)


@can("leases")
@pytest.mark.parametrize("how", ["nack", "exception", "drop"])
def test_who_waits_gets_what_is_given_back(q: Any, how: str) -> None:
    q.put(b"x")
    job = q.lease()
    waiting = begin(q.lease)
    wait_until(lambda: q.stats().consumers_waiting == 1, "it to wait")
    match how:
        case "nack":
            job.nack()
        case "exception":
            with pytest.raises(Mishap), job:
                raise Mishap
        case _:
            del job
            gc.collect()
    again = waiting.result(PATIENCE)
    assert (again.message, again.delivery_count) == (b"x", 2)
    again.ack()
    assert idle(q)


def test_after_the_last_delivery_it_is_dead(form: Form) -> None:
    with form.Queue(type=bytes, max_deliveries=2) as q:
        assert q.max_deliveries == 2
        q.put_many([b"bad", b"good", b"worse"])
        for reason in ("first", "second"):
            q.lease().nack(reason)
        with q.lease() as job:
            assert job.message == b"good"
        with q.lease() as job:
            job.reject("unreadable")
        assert [(letter.data, letter.reason) for letter in q.dead] == [
            (b"bad", "second"),
            (b"worse", "unreadable"),
        ]
        assert idle(q)


@can("leases")
def test_iteration_over_leases_ends_when_none_is_out(q: Any) -> None:
    q.put_many([b"1", b"2"])
    q.shutdown()
    held = q.lease()

    def work() -> list[tuple[bytes, int]]:
        done = []
        for job in q.leases():
            with job:
                done.append((job.message, job.delivery_count))
        return done

    working = begin(work)
    wait_until(lambda: q.stats().consumers_waiting == 1, "it to wait for what is on lease")
    assert not working.done()
    held.nack()
    assert working.result(PATIENCE) == [(b"2", 1), (b"1", 2)]


@can("leases")
@pytest.mark.parametrize("take", ["get", "get_many", "get_view", "lease"])
def test_who_waits_hears_when_the_last_lease_is_acknowledged(q: Any, take: str) -> None:
    q.put(b"1")
    q.shutdown()
    held = q.lease()
    calls: dict[str, Callable[[], Any]] = {
        "get": q.get,
        "get_many": lambda: q.get_many(3),
        "get_view": q.get_view,
        "lease": q.lease,
    }
    waiting = begin(calls[take])
    wait_until(lambda: q.stats().consumers_waiting == 1, "it to wait")
    held.ack()
    assert isinstance(waiting.exception(PATIENCE), isthmus.ShutDown)


def test_where_all_leases_are_out_the_next_waits_for_one(form: Form) -> None:
    with form.Queue(type=bytes, capacity=64 * KIB) as q:
        q.put_many([bytes([number]) for number in range(LEASES_OF_64_KIB + 1)])
        jobs = [q.lease() for _ in range(LEASES_OF_64_KIB)]
        for timeout in (0, 0.01):
            with pytest.raises(isthmus.Empty, match=f"{LEASES_OF_64_KIB} leases"):
                q.lease(timeout=timeout)
        waiting = begin(q.lease)
        wait_until(lambda: q.stats().consumers_waiting == 1, "it to wait")
        jobs.pop().ack()
        jobs.append(waiting.result(PATIENCE))
        assert jobs[-1].message == bytes([LEASES_OF_64_KIB])
        for job in jobs:
            job.ack()
        assert idle(q)


@can("leases")
def test_a_lease_on_a_view(q: Any) -> None:
    q.put(pattern(90_000))
    with q.lease(view=True) as job:
        assert bytes(job.message) == pattern(90_000)
    assert idle(q)


# ----------------------------------------------------------------------------------------------- handshakes


@can("handshakes")
def test_put_until_received_returns_when_somebody_has_it(q: Any) -> None:
    putting = begin(lambda: q.put(b"x", until="received"))
    wait_until(lambda: q.qsize() == 1, "the message")
    assert not putting.done()
    job = q.lease()
    putting.result(PATIENCE)
    job.ack()


@can("handshakes")
@pytest.mark.parametrize("end", ["ack", "get"])
def test_put_until_done_returns_when_it_was_acknowledged(q: Any, end: str) -> None:
    putting = begin(lambda: q.put(pattern(9000), until="done"))
    wait_until(lambda: q.qsize() == 1, "the message")
    if end == "get":
        q.get()
    else:
        q.lease().nack()
        job = q.lease()
        assert not putting.done()
        job.ack()
    putting.result(PATIENCE)
    assert idle(q)


@can("handshakes")
def test_put_until_done_says_when_it_was_given_up(q: Any) -> None:
    putting = begin(lambda: q.put(b"x", until="done"))
    wait_until(lambda: q.qsize() == 1, "the message")
    q.lease().reject("no thanks")
    error = putting.exception(PATIENCE)
    assert isinstance(error, isthmus.Undelivered)
    assert error.reason == "no thanks"
    q.dead.get()


@can("handshakes")
@pytest.mark.parametrize("until", ["received", "done"])
@pytest.mark.parametrize("timeout", [0, 0.02, 0.3])
def test_a_handshake_that_does_not_come_in_time_leaves_the_message(
    q: Any, until: str, timeout: float
) -> None:
    start = time.monotonic()
    with pytest.raises(isthmus.Timeout) as caught:
        q.put(b"x", timeout=timeout, until=until)
    assert not isinstance(caught.value, isthmus.Full)
    assert time.monotonic() - start >= timeout - 0.002
    assert drain(q) == [b"x"]


@can("handshakes")
@pytest.mark.parametrize("wrong", ["taken", ""])
def test_a_handshake_that_is_none_is_refused(q: Any, wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"received.*done"):
        q.put(b"x", until=wrong)
    assert q.empty()


@can("handshakes")
def test_many_handshakes_at_once(q: Any) -> None:
    putting = [begin(lambda: q.put(b"x", until="done")) for _ in range(20)]
    wait_until(lambda: q.qsize() == 20, "the messages")
    for _ in range(20):
        with q.lease():
            pass
    for each in putting:
        each.result(PATIENCE)


# ------------------------------------------------------------------------------------------------ readiness


def test_readable_is_for_everybody_and_takes_nothing(q: Any) -> None:
    assert q.wait_readable(timeout=0) is False
    waiting = [begin(q.wait_readable) for _ in range(4)]
    wait_until(lambda: q.stats().consumers_waiting == 4, "them to wait")
    q.put(b"x")
    assert [each.result(PATIENCE) for each in waiting] == [True] * 4
    assert q.wait_readable() is True
    assert drain(q) == [b"x"]


def test_writable_means_below_the_mark(q: Any, kind: Kind) -> None:
    assert q.wait_writable() is True
    q.put_many([bytes(4000)] * (100 if kind.can("more than ten messages") else 10))
    mark = q.fill
    assert q.wait_writable(timeout=0, below=mark / 2) is False
    waiting = [begin(lambda: q.wait_writable(below=mark / 2)) for _ in range(4)]
    half = begin(lambda: q.wait_writable(below=mark / 10))
    while q.fill >= mark / 2:
        assert not half.done()
        q.get()
    assert [each.result(PATIENCE) for each in waiting] == [True] * 4
    drain(q)
    assert half.result(PATIENCE) is True


@pytest.mark.parametrize("wrong", [-0.1, 1.5, float("nan")])
def test_a_mark_that_is_none_is_refused(q: Any, wrong: float) -> None:
    with pytest.raises(ValueError, match="below"):
        q.wait_writable(below=wrong)


def test_a_full_queue_is_not_writable(queues: Queues) -> None:
    with queues.make(type=bytes, capacity=64 * KIB) as q:
        fill(q, 4000)
        fill(q, 5000)
        assert q.wait_writable(timeout=0.01, below=0.5) is False
        drain(q)
        assert q.wait_writable(below=0.01) is True
