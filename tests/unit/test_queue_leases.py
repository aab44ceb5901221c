"""`Queue.lease`: a message is done when its consumer says so, and comes back when it does not."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import isthmus
from queues import KIB, LEASES_OF_64_KIB, drain, idle, pattern, queue_of_bytes
from siege import check_capacity
from support import Peer, wait_until

Start = Callable[..., Peer]

LARGE = 100_000
BY_SIZE = pytest.mark.parametrize("size", [0, 10, 4096, 4097, LARGE])


class Mishap(Exception):
    pass


@pytest.fixture
def q() -> Iterator[isthmus.Queue[bytes]]:
    with queue_of_bytes() as handle:
        yield handle


@BY_SIZE
def test_a_leased_message_is_neither_inside_nor_gone(q: isthmus.Queue[bytes], size: int) -> None:
    q.put(pattern(size))
    job = q.lease(timeout=0)
    assert job.message == pattern(size)
    assert (job.delivery_count, job.number, job.priority, job.sender) == (1, 0, 0, os.getpid())
    assert "ended" not in repr(job)
    stats = q.stats()
    assert (stats.depth, stats.leased, stats.got) == (0, 1, 1)
    assert (q.qsize(), q.empty()) == (0, True)
    with pytest.raises(isthmus.Empty):
        q.get(timeout=0)
    job.ack()
    assert job.ended
    assert idle(q)
    assert job.message == pattern(size), "a copy, which stays"


@BY_SIZE
@pytest.mark.parametrize("how", ["nack", "exception", "drop"])
def test_a_message_that_is_given_back_comes_first_and_counts(
    q: isthmus.Queue[bytes], size: int, how: str
) -> None:
    q.put_many([pattern(size), b"second"])
    for delivery in range(1, 5):
        job = q.lease(timeout=0)
        assert (job.message, job.delivery_count, job.number) == (pattern(size), delivery, 0)
        match how:
            case "nack":
                job.nack()
                assert job.ended
            case "exception":
                with pytest.raises(Mishap), job:
                    raise Mishap
            case _:
                del job
                gc.collect()
        assert q.stats()[:3] == (2, 2, 1)  # depth, put, got
    assert drain(q) == [pattern(size), b"second"]
    assert idle(q)


@BY_SIZE
def test_leaving_the_block_acknowledges(q: isthmus.Queue[bytes], size: int) -> None:
    q.put(pattern(size))
    with q.lease() as job:
        assert job.message == pattern(size)
        assert q.stats().leased == 1
    assert job.ended
    assert idle(q)


@pytest.mark.parametrize(("how", "inside", "dead"), [("ack", 0, 0), ("nack", 2, 0), ("reject", 0, 2)])
def test_a_lease_ended_in_its_block_is_left_in_peace(
    q: isthmus.Queue[bytes], how: str, inside: int, dead: int
) -> None:
    q.put_many([b"1", b"2"])
    jobs = [q.lease(), q.lease()]
    with jobs[0]:
        getattr(jobs[0], how)()
    with contextlib.suppress(Mishap), jobs[1]:
        getattr(jobs[1], how)()
        raise Mishap
    assert (q.qsize(), len(q.dead)) == (inside, dead)


def test_a_lease_ends_once(q: isthmus.Queue[bytes]) -> None:
    for first in ("ack", "nack", "reject"):
        q.put(b"x")
        job = q.lease()
        getattr(job, first)()
        for again in ("ack", "nack", "reject"):
            with pytest.raises(RuntimeError, match="ended already"):
                getattr(job, again)()
        assert "ended" in repr(job)
        drain(q)
    assert len(q.dead) == 1


def test_what_came_back_is_handed_out_oldest_first(q: isthmus.Queue[bytes]) -> None:
    q.put_many([bytes([number]) for number in range(5)])
    jobs = [q.lease() for _ in range(4)]
    for number in (2, 0, 3, 1):
        jobs[number].nack()
    assert drain(q) == [bytes([number]) for number in range(5)]


def test_get_and_get_many_and_views_take_what_came_back(q: isthmus.Queue[bytes]) -> None:
    messages = [pattern(5000, salt) for salt in range(3)] + [b"small", b"new", b"newer"]
    q.put_many(messages)
    for job in [q.lease() for _ in range(4)]:
        job.nack()
    assert q.get(timeout=0) == messages[0]
    with q.get_view(timeout=0) as view:
        assert bytes(view) == messages[1]
    assert q.get_many(10, timeout=0) == messages[2:]
    assert idle(q)


# ---------------------------------------------------------------------------------------------- given up


@BY_SIZE
def test_after_the_last_delivery_it_is_dead_with_the_last_reason(size: int) -> None:
    with queue_of_bytes(max_deliveries=3) as q:
        assert q.max_deliveries == 3
        q.put(pattern(size))
        for delivery in range(1, 4):
            job = q.lease(timeout=0)
            assert job.delivery_count == delivery
            job.nack(f"reason {delivery}")
        with pytest.raises(isthmus.Empty):
            q.lease(timeout=0)
        stats = q.stats()
        assert (stats.depth, stats.leased, stats.dead) == (0, 0, 1)
        letter = q.dead.get()
        assert (letter.data, letter.reason, letter.deliveries) == (pattern(size), "reason 3", 3)
        assert (letter.sender, letter.number, letter.priority, letter.size) == (os.getpid(), 0, 0, size)
        assert idle(q)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda job: job.nack(), ""),
        (lambda job: job.nack(reason="tired"), "tired"),
        (lambda job: job.__exit__(ValueError, ValueError("no good"), None), "ValueError: no good"),
        (lambda _: None, "the lease was dropped without an acknowledgement"),
    ],
)
def test_the_reason_says_what_happened(end: Callable[[Any], object], reason: str) -> None:
    with queue_of_bytes(max_deliveries=1) as q:
        q.put(b"x")
        end(q.lease())
        gc.collect()
        assert q.dead.get().reason == reason


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_rejected_message_is_dead_at_once(q: isthmus.Queue[bytes], size: int) -> None:
    q.put(pattern(size))
    q.lease().reject("unreadable")
    assert q.empty()
    letter = q.dead.get()
    assert (letter.data, letter.reason, letter.deliveries) == (pattern(size), "unreadable", 1)
    assert idle(q)


def test_by_default_it_is_given_up_after_twenty_deliveries(q: isthmus.Queue[bytes]) -> None:
    q.put(b"x")
    count = 0
    while not q.dead:
        q.lease(timeout=0).nack()
        count += 1
    assert count == q.max_deliveries == 20


@pytest.mark.parametrize("wrong", [0, -1, 1 << 24])
def test_an_impossible_number_of_deliveries_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match=str(wrong)):
        isthmus.Queue(max_deliveries=wrong)


# ---------------------------------------------------------------------------------------------- the table


def test_when_all_leases_are_out_the_next_waits_and_says_why() -> None:
    with queue_of_bytes(capacity=64 * KIB) as q:
        q.put_many([bytes([number]) for number in range(LEASES_OF_64_KIB + 4)])
        jobs = [q.lease(timeout=0) for _ in range(LEASES_OF_64_KIB)]
        for timeout in (0, 0.01):
            with pytest.raises(isthmus.Empty, match=f"{LEASES_OF_64_KIB} leases") as caught:
                q.lease(timeout=timeout)
            assert "capacity=" in str(caught.value)
        assert q.get(timeout=0) == bytes([LEASES_OF_64_KIB]), "no lease is needed for this"
        jobs[3].ack()
        replaced = q.lease(timeout=0)
        assert replaced.message == bytes([LEASES_OF_64_KIB + 1])
        jobs[5].nack()
        again = q.lease(timeout=0)
        assert (again.message, again.delivery_count) == (bytes([5]), 2)
        jobs[7].reject()
        with pytest.raises(isthmus.Empty, match=r"q\.dead"):
            q.lease(timeout=0)
        q.dead.get()
        assert q.lease(timeout=0).message == bytes([5 + LEASES_OF_64_KIB - 3])


def test_one_who_waits_for_a_lease_goes_on_when_one_ends(spawn: Start) -> None:
    with queue_of_bytes("tight", capacity=64 * KIB) as q:
        q.put_many([bytes([number]) for number in range(LEASES_OF_64_KIB + 1)])
        jobs = [q.lease() for _ in range(LEASES_OF_64_KIB)]
        peer = spawn("""
            import isthmus
            with isthmus.Queue.open("tight", type=bytes) as q, q.lease() as job:
                print(job.message[0], flush=True)
        """)
        wait_until(lambda: q.stats().consumers_waiting == 1, "the peer to wait")
        jobs.pop().ack()
        peer.expect(str(LEASES_OF_64_KIB))
        peer.finish()
        assert q.stats().leased == LEASES_OF_64_KIB - 1
        for job in jobs:
            job.ack()
        assert idle(q)


def test_leases_by_the_thousand_use_nothing_up(q: isthmus.Queue[bytes]) -> None:
    for number in range(3000):
        q.put(pattern(number % 2 * 5000))
        job = q.lease(timeout=0)
        job.ack() if number % 3 else job.nack()
        if number % 3 == 0:
            with q.lease(timeout=0) as again:
                assert again.number == number
    assert idle(q)
    check_capacity(q)


# ---------------------------------------------------------------------------------------------- views


def test_a_lease_on_a_view_leaves_the_message_where_it_is(q: isthmus.Queue[bytes]) -> None:
    q.put(pattern(LARGE))
    job = q.lease(view=True)
    with memoryview(job.message) as memory:
        assert memory.readonly
        assert memory.tobytes() == pattern(LARGE)
    job.ack()
    with pytest.raises(BufferError):
        memoryview(job.message)
    assert idle(q)


@pytest.mark.parametrize("how", ["ack", "nack", "reject", "drop"])
def test_what_looks_at_a_leased_message_keeps_it_beyond_the_end(q: isthmus.Queue[bytes], how: str) -> None:
    q.put(pattern(LARGE))
    job = q.lease(view=True)
    memory = memoryview(job.message)
    if how == "drop":
        del job
    else:
        getattr(job, how)()
    assert (q.empty(), len(q.dead)) == (True, 0), "it goes back with the last look at it"
    q.put_many([bytes(20_000)] * 5)
    assert memory == pattern(LARGE)
    del memory
    messages = drain(q)
    assert messages == [pattern(LARGE)] * (how in {"nack", "drop"}) + [bytes(20_000)] * 5
    assert [letter.data for letter in q.dead] == [pattern(LARGE)] * (how == "reject")
    assert idle(q)


def test_a_small_message_on_a_view_is_a_copy(q: isthmus.Queue[bytes]) -> None:
    q.put(b"small")
    job = q.lease(view=True)
    memory = memoryview(job.message)
    job.nack()
    assert q.get(timeout=0) == b"small"
    assert memory.tobytes() == b"small"
