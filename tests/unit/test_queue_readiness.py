"""Readiness and numbers: `fill`, `wait_readable`, `wait_writable`, `stats`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import isthmus
from queues import KIB, MIB, drain, fill, idle, limit_of, queue_of_bytes
from support import Peer, wait_until

Start = Callable[..., Peer]


@pytest.fixture
def q() -> Iterator[isthmus.Queue[bytes]]:
    with queue_of_bytes("ready", priorities=2) as handle:
        yield handle


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Starts a thread that appends what a call returns to a list."""
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    return thread, results


# ---------------------------------------------------------------------------------------------- fill


@pytest.mark.parametrize("size", [0, 100, 4096, 5000, 60_000])
def test_fill_rises_from_nothing_to_nearly_all_and_falls_again(q: isthmus.Queue[bytes], size: int) -> None:
    assert q.fill == 0.0
    seen = [q.fill]
    while True:
        try:
            q.put(bytes(size), timeout=0)
        except isthmus.Full:
            break
        seen.append(q.fill)
    assert seen == sorted(seen)
    assert seen[1] > 0
    assert 0.85 < seen[-1] <= 1.0
    drain(q)
    assert q.fill == 0.0


def test_fill_is_that_of_the_fuller_part(q: isthmus.Queue[bytes]) -> None:
    quarter = limit_of(q) // 4
    q.put(bytes(quarter))
    assert 0.2 < q.fill < 0.3
    q.put(bytes(2000))
    assert 0.2 < q.fill < 0.3
    urgent = fill(q, 1000, priority=1)
    assert q.fill > 0.9
    assert len(q.get_many(urgent)) == urgent
    with q.reserve(3 * quarter), memoryview(q.get_view(timeout=0)):
        assert q.fill > 0.9, "what is reserved and what is looked at counts too"


def test_what_is_on_lease_counts_where_it_takes_memory(q: isthmus.Queue[bytes]) -> None:
    q.put(bytes(limit_of(q)))
    job = q.lease()
    assert q.fill == 1.0
    job.reject()
    assert q.fill == 1.0
    q.dead.get()
    assert q.fill == 0.0


# ---------------------------------------------------------------------------------------------- readable


def test_readable_says_whether_a_message_is_there_and_takes_none(q: isthmus.Queue[bytes]) -> None:
    assert q.wait_readable(timeout=0) is False
    start = time.monotonic()
    assert q.wait_readable(timeout=0.15) is False
    assert time.monotonic() - start >= 0.15
    for priority in (0, 1):
        q.put(b"x", priority=priority)
        for timeout in (0, 1, None):
            assert q.wait_readable(timeout) is True
        assert q.get(timeout=0) == b"x"
    q.put(b"y")
    job = q.lease()
    assert q.wait_readable(timeout=0) is False
    job.nack()
    assert q.wait_readable(timeout=0) is True
    assert q.qsize() == 1


@pytest.mark.parametrize("event", ["put", "give back", "shutdown", "requeue"])
def test_one_who_waits_to_read_is_woken(spawn: Start, q: isthmus.Queue[bytes], event: str) -> None:
    q.put_many([b"x", b"y"])
    job, dead = q.lease(), q.lease()
    dead.reject()
    if event == "shutdown":
        job.ack()
        q.dead.get()
    peer = spawn("""
        import isthmus
        with isthmus.Queue.open("ready", type=bytes) as q:
            print(q.wait_readable(), flush=True)
    """)
    wait_until(lambda: q.stats().consumers_waiting == 1, "the peer to wait")
    match event:
        case "put":
            q.put(b"z")
        case "give back":
            job.nack()
        case "requeue":
            q.dead.requeue()
        case _:
            q.shutdown()
    peer.expect("True")
    peer.finish()
    assert q.qsize() == (event != "shutdown")


def test_the_wake_up_of_one_who_only_looks_goes_on_to_one_who_takes(q: isthmus.Queue[bytes]) -> None:
    for _ in range(20):
        looks = [in_thread(q.wait_readable) for _ in range(3)]
        taker, taken = in_thread(q.get)
        wait_until(lambda: q.stats().consumers_waiting == 4, "all of them to wait")
        q.put(b"x")
        taker.join(30)
        assert taken == [b"x"]
        q.put(b"for those who look")
        for thread, seen in looks:
            thread.join(30)
            assert seen == [True]
        q.get()


def test_a_message_held_by_the_dead_becomes_readable(spawn: Start, q: isthmus.Queue[bytes]) -> None:
    peer = spawn("""
        import sys, isthmus
        q = isthmus.Queue.open("ready", type=bytes)
        job = q.lease()
        print("leased", flush=True)
        sys.stdin.readline()
    """)
    q.put(b"x")
    peer.expect("leased")
    thread, seen = in_thread(q.wait_readable)
    wait_until(lambda: q.stats().consumers_waiting == 1, "the thread to wait")
    peer.kill()
    thread.join(30)
    assert seen == [True]
    assert q.get(timeout=0) == b"x"


def test_the_end_of_a_stream_is_readable(spawn: Start) -> None:
    with queue_of_bytes("stream", ends_with_producers=True) as q:
        peer = spawn("""
            import sys, isthmus
            with isthmus.Queue.open("stream", type=bytes) as q:
                q.put(b"x")
                print("put", flush=True)
                sys.stdin.readline()
        """)
        peer.expect("put")
        q.get()
        assert q.wait_readable(timeout=0.1) is False
        thread, seen = in_thread(q.wait_readable)
        peer.finish()
        thread.join(30)
        assert seen == [True]
        with pytest.raises(isthmus.ShutDown):
            q.get()


# ---------------------------------------------------------------------------------------------- writable


def test_writable_says_whether_fill_is_under_the_mark(q: isthmus.Queue[bytes]) -> None:
    assert q.wait_writable(timeout=0) is True
    assert q.wait_writable(timeout=0, below=0.001) is True
    q.put(bytes(limit_of(q) // 2))
    assert q.fill == 0.5
    assert q.wait_writable(timeout=0, below=0.51) is True
    start = time.monotonic()
    assert q.wait_writable(timeout=0.15, below=0.5) is False
    assert time.monotonic() - start >= 0.15
    q.shutdown()
    assert q.wait_writable(below=0.1) is True


@pytest.mark.parametrize("size", [1000, 20_000])
def test_a_producer_goes_on_at_the_low_water_mark_and_not_before(
    spawn: Start, q: isthmus.Queue[bytes], size: int
) -> None:
    fill(q, size)
    peer = spawn("""
        import isthmus
        with isthmus.Queue.open("ready", type=bytes) as q:
            print("waits", flush=True)
            print(q.wait_writable(below=0.25), q.fill, flush=True)
    """)
    peer.expect("waits")
    before = q.fill
    while q.fill >= 0.25:
        before = q.fill
        q.get(timeout=0)
        time.sleep(0.001)
    answer, level = peer.line().split()
    peer.finish()
    assert (answer, float(level) < 0.25) == ("True", True)
    assert before >= 0.25
    assert q.qsize() > 0


@pytest.mark.parametrize("event", ["release", "acknowledge", "take the dead", "cancel", "shutdown"])
def test_whatever_gives_memory_back_wakes_one_who_waits_to_write(q: isthmus.Queue[bytes], event: str) -> None:
    largest = limit_of(q)
    q.put(bytes(largest))
    end: Callable[[], object]
    match event:
        case "release":
            end = q.get_view().release
        case "acknowledge":
            end = q.lease().ack
        case "take the dead":
            q.lease().reject()
            end = q.dead.get
        case "cancel":
            q.get()
            reservation: Any = q.reserve(largest)
            end = reservation.cancel
        case _:
            end = q.shutdown
    thread, seen = in_thread(lambda: q.wait_writable(below=0.5))
    time.sleep(0.05)
    assert seen == []
    end()
    thread.join(30)
    assert seen == [True]


@pytest.mark.parametrize("wrong", [0.0, -0.1, 1.01, float("nan"), float("inf")])
def test_a_mark_that_is_no_part_of_the_whole_is_refused(q: isthmus.Queue[bytes], wrong: float) -> None:
    with pytest.raises(ValueError, match=r"below is.*0\.0 up to 1\.0"):
        q.wait_writable(timeout=0, below=wrong)


def test_a_closed_or_wrongly_asked_queue_says_so() -> None:
    with queue_of_bytes() as q:
        for wait in (q.wait_readable, q.wait_writable):
            with pytest.raises(ValueError, match="-1"):
                wait(timeout=-1)
    calls: list[Callable[[], object]] = [q.wait_readable, q.wait_writable, lambda: q.fill]
    for call in calls:
        with pytest.raises(isthmus.ClosedError):
            call()


# ---------------------------------------------------------------------------------------------- numbers


def test_rates_are_those_since_this_handle_asked_last(q: isthmus.Queue[bytes]) -> None:
    with queue_of_bytes("ready") as other:
        began = time.monotonic()
        q.stats()
        mark = time.monotonic()
        q.put_many([b"x"] * 300)
        q.get_many(100)
        before = time.monotonic()
        stats = q.stats()
        after = time.monotonic()
        assert 300 / (after - began) <= stats.put_rate <= 300 / (before - mark)
        assert 100 / (after - began) <= stats.get_rate <= 100 / (before - mark)
        assert (q.stats().put_rate, q.stats().get_rate) == (0.0, 0.0)
        assert other.stats().put_rate > 0, "every handle has rates of its own"


def test_who_waits_is_counted_per_thread_in_every_process(spawn: Start) -> None:
    with queue_of_bytes("empty") as empty, queue_of_bytes("full", capacity=64 * KIB) as full:
        fill(full, 1000)
        code = """
            import sys, threading, isthmus
            q = isthmus.Queue.open(sys.argv[1], type=bytes)
            calls = [eval("lambda: " + call) for call in sys.argv[2:]]
            for call in calls: threading.Thread(target=call, daemon=True).start()
            print("started", flush=True)
            sys.stdin.readline()
        """
        consumers = [spawn(code, "empty", "q.get()", "q.lease()"), spawn(code, "empty", "q.wait_readable()")]
        producers = [
            spawn(code, "full", "q.put(bytes(1000))", "q.put_many([bytes(1000)])"),
            spawn(code, "full", "[q.reserve(1 << 15), q.reserve(1 << 15)]"),
        ]

        def waiting() -> tuple[int, int, int, int]:
            of_empty, of_full = empty.stats(), full.stats()
            return (
                of_empty.consumers_waiting,
                of_empty.producers_waiting,
                of_full.consumers_waiting,
                of_full.producers_waiting,
            )

        wait_until(lambda: waiting() == (3, 0, 0, 3), "all of them to wait")
        assert all(type(count) is int for count in waiting())
        assert (empty.stats().attached, full.stats().attached) == (3, 3)
        consumers[0].kill()
        producers[1].kill()
        wait_until(lambda: waiting() == (1, 0, 0, 2), "the killed to be counted no more")
        drain(full)
        empty.put_many([b"x"] * 2)
        wait_until(lambda: waiting() == (0, 0, 0, 0), "nobody to wait")


def test_every_message_is_counted_where_it_is(q: isthmus.Queue[bytes]) -> None:
    q.put_many([bytes(10), bytes(5000), bytes(20), bytes(30)])
    held = [q.lease(), q.lease()]
    q.lease().reject()
    stats = q.stats()
    assert (stats.depth, stats.leased, stats.dead) == (1, 2, 1)
    assert (stats.put, stats.got, stats.largest) == (4, 3, 5000)
    assert (stats.capacity, stats.attached) == (MIB, 1)
    held[0].ack()
    held[1].nack()
    stats = q.stats()
    assert (stats.depth, stats.leased, stats.dead, stats.got) == (2, 0, 1, 3)
    q.dead.requeue()
    assert q.stats().depth == 3
    drain(q)
    assert idle(q)
