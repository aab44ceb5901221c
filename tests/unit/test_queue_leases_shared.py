"""Leases among several: handles, threads, processes, and the end of a queue that still has leases out."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

import isthmus
from queues import MIB, drain, idle, pattern, queue_of_bytes
from support import Peer, wait_until

Start = Callable[..., Peer]

LARGE = 100_000
BY_SIZE = pytest.mark.parametrize("size", [10, LARGE])


@pytest.fixture
def q() -> Iterator[isthmus.Queue[bytes]]:
    with queue_of_bytes() as handle:
        yield handle


def test_the_sender_is_the_process_that_put_it(spawn: Start) -> None:
    with queue_of_bytes("sent") as handle:
        peer = spawn("""
            import sys, isthmus
            with isthmus.Queue.open("sent", type=bytes) as q:
                q.put(b"small")
                q.put(bytes(100_000))
                q.put_many([b"many"])
                with q.reserve(10): pass
                print("put", flush=True)
                sys.stdin.readline()
        """)
        peer.expect("put")
        handle.put(b"mine")
        senders = []
        for _ in range(5):
            with handle.lease(timeout=0) as job:
                senders.append(job.sender)
        assert senders == [peer.pid] * 4 + [os.getpid()]
        peer.finish()


def test_the_number_counts_what_was_put(q: isthmus.Queue[bytes]) -> None:
    for number in range(5):
        q.put(b"x")
        if number % 2:
            q.get()
    numbers = []
    while not q.empty():
        with q.lease() as job:
            numbers.append(job.number)
    assert numbers == [2, 3, 4]


# ---------------------------------------------------------------------------------------------- two handles


@BY_SIZE
def test_two_handles_share_what_comes_back(size: int) -> None:
    with queue_of_bytes("two") as first, queue_of_bytes("two") as second:
        first.put(pattern(size))
        job = first.lease()
        assert second.stats().leased == 1
        assert second.empty()
        job.nack()
        with second.lease(timeout=0) as again:
            assert (again.message, again.delivery_count) == (pattern(size), 2)
            assert first.stats().leased == 1
        assert idle(first)


@BY_SIZE
@pytest.mark.parametrize("how", ["ack", "nack", "reject", "drop", "with"])
def test_a_lease_is_ended_although_its_handle_was_closed(size: int, how: str) -> None:
    with isthmus.Queue("closed", type=bytes, capacity=MIB) as other:
        with queue_of_bytes("closed") as handle:
            handle.put(pattern(size))
            job = handle.lease()
        assert other.stats().leased == 1, "this process lives, and has it"
        assert (job.message, job.delivery_count, job.sender) == (pattern(size), 1, os.getpid())
        match how:
            case "drop":
                del job
                gc.collect()
            case "with":
                with job:
                    pass
            case _:
                getattr(job, how)()
        del handle
        assert [len(message) for message in drain(other)] == [size] * (how in {"nack", "drop"})
        assert [len(letter.data) for letter in other.dead] == [size] * (how == "reject")
        assert idle(other)


def test_a_view_on_lease_is_seen_although_its_handle_was_closed() -> None:
    with isthmus.Queue("closed", type=bytes, capacity=MIB) as other:
        with queue_of_bytes("closed") as handle:
            handle.put(pattern(LARGE))
            job = handle.lease(view=True)
        other.put_many([bytes(20_000)] * 5)
        assert bytes(job.message) == pattern(LARGE)
        job.nack()
        assert drain(other)[0] == pattern(LARGE)
        assert idle(other)


def test_a_closed_handle_gives_no_lease() -> None:
    with queue_of_bytes() as handle:
        handle.put(b"x")
    calls: list[Callable[[], object]] = [
        handle.lease,
        lambda: handle.lease(timeout=0),
        lambda: next(handle.leases()),
    ]
    for call in calls:
        with pytest.raises(isthmus.ClosedError):
            call()


# ---------------------------------------------------------------------------------------------- threads


@BY_SIZE
def test_threads_of_one_handle_do_every_message_once(q: isthmus.Queue[bytes], size: int) -> None:
    """Every third message is given back twice; all of it ends, and nothing is done twice."""
    done: Counter[int] = Counter()
    deliveries: dict[int, int] = {}

    def work() -> None:
        for job in q.leases():
            number = int.from_bytes(job.message[:8], "little")
            assert len(job.message) == 8 + size
            if number % 3 == 0 and job.delivery_count < 3:
                job.nack()
                continue
            with job:
                deliveries[number] = job.delivery_count
                done[number] += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(300):
        q.put(number.to_bytes(8, "little") + bytes(size), timeout=30)
    q.shutdown()
    for thread in threads:
        thread.join(60)
    assert done == Counter(range(300))
    assert deliveries == {number: 1 if number % 3 else 3 for number in range(300)}
    assert idle(q)


def test_a_lease_is_ended_by_another_thread_as_well(q: isthmus.Queue[bytes]) -> None:
    q.put(b"x")
    job = q.lease()
    thread = threading.Thread(target=job.ack)
    thread.start()
    thread.join(30)
    assert job.ended
    assert idle(q)


# ---------------------------------------------------------------------------------------------- waiting


def test_one_who_waits_for_a_message_gets_what_comes_back(spawn: Start) -> None:
    with queue_of_bytes("back") as q:
        q.put(b"x")
        job = q.lease()
        peers = [
            spawn(f"""
                import isthmus
                with isthmus.Queue.open("back", type=bytes) as q:
                    {call}
                    print(got, flush=True)
            """)
            for call in ("got = q.get()", "got = q.lease(); got.ack(); got = got.message")
        ]
        wait_until(lambda: q.stats().consumers_waiting == 2, "both to wait")
        job.nack()
        q.put(b"x")
        for peer in peers:
            peer.expect("b'x'")
            peer.finish()
        assert idle(q)


def test_lease_waits_and_refuses_as_get_does(q: isthmus.Queue[bytes]) -> None:
    for timeout in (0, 0.01):
        with pytest.raises(isthmus.Empty):
            q.lease(timeout=timeout)
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match=r"-1|nan|NaN"):
            q.lease(timeout=wrong)
    putter = threading.Timer(0.05, q.put, [b"late"])
    putter.start()
    assert q.lease().message == b"late"
    putter.join()


# ---------------------------------------------------------------------------------------------- the end


def ended(handle: isthmus.Queue[bytes]) -> bool:
    """Whether a consumer is told that nothing will come any more."""
    try:
        handle.get(timeout=0)
    except isthmus.Empty:
        return False
    except isthmus.ShutDown:
        return True
    raise AssertionError("there was a message")


def test_a_queue_that_was_shut_down_ends_when_its_last_lease_has(q: isthmus.Queue[bytes]) -> None:
    q.put_many([b"a", b"b", b"c"])
    first, second, third = q.lease(), q.lease(), q.lease()
    q.shutdown()
    assert not ended(q)
    first.ack()
    assert not ended(q)
    second.nack()
    assert q.get() == b"b"
    assert not ended(q)
    third.reject()
    assert ended(q), "what is dead does not come by itself"
    assert q.dead.requeue() == 1
    assert q.get() == b"c"
    assert ended(q)


@pytest.mark.parametrize("how", ["ack", "nack", "reject"])
@pytest.mark.parametrize("waits", ["leases", "iteration", "views", "lease"])
def test_the_end_of_the_last_lease_wakes_all_who_wait_for_the_end(
    q: isthmus.Queue[bytes], waits: str, how: str
) -> None:
    q.put(b"x")
    job = q.lease()
    q.shutdown()
    got: list[bytes] = []
    ends: list[str] = []

    def wait() -> None:
        match waits:
            case "leases":
                for each in q.leases():
                    with each:
                        got.append(each.message)
            case "iteration":
                got.extend(q)
            case "views":
                got.extend(bytes(view) for view in q.views())
            case _:
                with contextlib.suppress(isthmus.ShutDown):
                    while True:
                        with q.lease() as each:
                            got.append(each.message)
        ends.append(waits)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: q.stats().consumers_waiting == 3, "all of them to wait")
    assert ends == []
    getattr(job, how)()
    for thread in threads:
        thread.join(30)
    assert (len(ends), got) == (3, [b"x"] * (how == "nack"))


@pytest.mark.parametrize("how", ["job.ack()", "job.nack()", "job.reject()"])
def test_a_queue_of_producers_ends_when_its_last_lease_has(spawn: Start, how: str) -> None:
    with queue_of_bytes("stream", ends_with_producers=True) as q:
        peer = spawn("""
            import sys, isthmus
            with isthmus.Queue.open("stream", type=bytes) as q:
                q.put(b"x")
        """)
        holder = spawn(f"""
            import sys, isthmus
            with isthmus.Queue.open("stream", type=bytes) as q:
                job = q.lease()
                print("leased", flush=True)
                sys.stdin.readline()
                {how}
        """)
        holder.expect("leased")
        peer.finish()
        assert not ended(q)
        got: list[bytes] = []

        def work() -> None:
            for job in q.leases():
                with job:
                    got.append(job.message)

        worker = threading.Thread(target=work)
        worker.start()
        wait_until(lambda: q.stats().consumers_waiting == 1, "the worker to wait")
        holder.send()
        worker.join(30)
        assert not worker.is_alive()
        assert got == [b"x"] * ("nack" in how)
        holder.finish()


def test_a_producer_killed_while_its_message_is_on_lease_is_named_at_the_end(spawn: Start) -> None:
    with queue_of_bytes("stream", ends_with_producers=True) as q:
        peer = spawn("""
            import sys, isthmus
            q = isthmus.Queue.open("stream", type=bytes)
            q.put(b"x")
            print("put", flush=True)
            sys.stdin.readline()
        """)
        peer.expect("put")
        job = q.lease()
        peer.kill()
        assert not ended(q)
        job.nack()
        with q.lease() as again:
            assert again.message == b"x"
        with pytest.raises(isthmus.PeerDied) as caught:
            q.lease()
        assert caught.value.pid == peer.pid
