"""`Queue(priorities=)`: a more urgent message goes first, always; within a level the order stays."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import isthmus
from queues import KIB, MIB, drain, fill, idle, limit_of, pattern, queue_of_bytes
from support import Peer, wait_until

Start = Callable[..., Peer]

LEVELS = 4


@pytest.fixture
def q() -> Iterator[isthmus.Queue[bytes]]:
    with queue_of_bytes(priorities=LEVELS, capacity=2 * MIB) as handle:
        yield handle


def numbered(count: int, sizes: list[int], seed: int = 1) -> list[tuple[int, bytes]]:
    """Messages of mixed sizes, each with a random level and its own content."""
    choose = random.Random(seed)
    return [
        (choose.randrange(LEVELS), number.to_bytes(4, "little") + pattern(choose.choice(sizes), number))
        for number in range(count)
    ]


def in_order(messages: list[tuple[int, bytes]]) -> list[bytes]:
    """As they have to come out of a queue that held all of them."""
    return [message for _, message in sorted(messages, key=lambda each: -each[0])]


SIZES = pytest.mark.parametrize("sizes", [[0, 10, 200], [5000, 20_000], [10, 5000]])


@SIZES
@pytest.mark.parametrize("take", ["get", "get_many", "view", "lease", "iteration"])
def test_the_most_urgent_comes_first_and_each_level_keeps_its_order(
    q: isthmus.Queue[bytes], sizes: list[int], take: str
) -> None:
    messages = numbered(40, sizes)
    for level, message in messages:
        q.put(message, timeout=0, priority=level)
    assert (q.qsize(), q.empty(), q.stats().put) == (40, False, 40)
    got: list[bytes] = []
    match take:
        case "get":
            got = [q.get(timeout=0) for _ in messages]
        case "get_many":
            got = [message for _ in range(5) for message in q.get_many(8, timeout=0)]
        case "view":
            got = [bytes(q.get_view(timeout=0)) for _ in messages]
        case "lease":
            for _ in messages:
                with q.lease(timeout=0) as job:
                    got.append(job.message)
        case _:
            q.shutdown()
            got = list(q)
    assert got == in_order(messages)
    assert idle(q)


def test_what_comes_later_and_is_more_urgent_overtakes(q: isthmus.Queue[bytes]) -> None:
    q.put_many([b"low 1", b"low 2"])
    q.put(b"high", priority=3)
    assert q.get() == b"high"
    assert q.get() == b"low 1"
    q.put_many([b"mid 1", b"mid 2"], priority=1)
    q.put(b"mid 3", priority=1)
    assert q.get_many(10) == [b"mid 1", b"mid 2", b"mid 3", b"low 2"]


def test_a_lease_knows_its_level_and_numbers_count_within_it(q: isthmus.Queue[bytes]) -> None:
    for level in (0, 3, 0, 3, 1):
        q.put(b"x", priority=level)
    found = []
    while not q.empty():
        with q.lease() as job:
            found.append((job.priority, job.number))
    assert found == [(3, 0), (3, 1), (1, 0), (0, 0), (0, 1)]


def test_what_comes_back_goes_before_its_level_and_after_more_urgent_ones(q: isthmus.Queue[bytes]) -> None:
    q.put_many([b"low 1", b"low 2"])
    low = q.lease()
    q.put(b"high 1", priority=2)
    high = q.lease()
    q.put(b"high 2", priority=2)
    low.nack()
    assert q.get() == b"high 2", "a new urgent one before an old one that is not"
    high.nack()
    assert drain(q) == [b"high 1", b"low 1", b"low 2"]
    assert idle(q)


@pytest.mark.parametrize("size", [10, 5000])
def test_a_reservation_has_a_priority_too(q: isthmus.Queue[bytes], size: int) -> None:
    q.put(b"low")
    with q.reserve(size, priority=3) as block:
        block[:] = bytes(size)
    assert [len(message) for message in drain(q)] == [size, 3]
    with isthmus.Queue(type=np.ndarray, priorities=2, capacity=MIB) as arrays:
        arrays.put(np.zeros(3))
        with arrays.reserve(size, priority=1):
            pass
        assert [len(array) for array in drain(arrays)] == [size, 3]


# ---------------------------------------------------------------------------------------------- capacity


@pytest.mark.parametrize("size", [0, 64, 1000])
def test_every_level_has_the_same_room_and_none_takes_another_s(size: int) -> None:
    with queue_of_bytes(priorities=LEVELS, capacity=512 * KIB) as q:
        rooms = [fill(q, size, level) for level in range(LEVELS)]
        assert len(set(rooms)) == 1
        # 256 KiB are for small messages, 64 KiB of them each level's; a message takes 8 bytes more.
        assert 60 * KIB <= rooms[0] * (size + 8) <= 64 * KIB
        assert q.qsize() == sum(rooms)
        q.get_many(3)  # of the highest level
        with pytest.raises(isthmus.Full):
            q.put(bytes(size), timeout=0)
        q.put(bytes(size), timeout=0, priority=LEVELS - 1)
        drain(q)
        assert idle(q)


def test_large_messages_of_all_levels_share_their_memory(q: isthmus.Queue[bytes]) -> None:
    largest = limit_of(q)
    q.put(bytes(largest), timeout=0)
    with pytest.raises(isthmus.Full):
        q.put(bytes(5000), timeout=0, priority=3)
    assert len(q.get()) == largest
    q.put(bytes(largest), timeout=0, priority=3)
    assert len(q.get()) == largest


@pytest.mark.parametrize("priorities", range(1, 17))
def test_any_number_of_levels_takes_the_smallest_and_the_largest_message(priorities: int) -> None:
    with queue_of_bytes(priorities=priorities, capacity=64 * KIB) as q:
        assert q.priorities == priorities
        largest = limit_of(q)
        for level in range(priorities):
            for size in (0, 100, 4096, largest):
                q.put(pattern(size, level), timeout=0, priority=level)
                assert q.get(timeout=0) == pattern(size, level)
        assert idle(q)


def test_a_producer_that_waits_on_one_level_waits_for_that_level() -> None:
    with queue_of_bytes(priorities=2, capacity=64 * KIB) as q:
        rooms = fill(q, 100), fill(q, 100, 1)
        late = b"late" * 25
        done: list[int] = []

        def put(level: int) -> None:
            q.put(late, priority=level)
            done.append(level)

        threads = [threading.Thread(target=put, args=[level]) for level in (0, 1)]
        for thread in threads:
            thread.start()
        wait_until(lambda: q.stats().producers_waiting == 2, "both to wait")
        assert q.get() == bytes(100)  # of level 1
        threads[1].join(30)
        assert done == [1]
        wait_until(lambda: q.stats().producers_waiting == 1, "the other to look and wait on")
        for _ in range(rooms[1] - 1):
            assert q.get(timeout=0) == bytes(100)
        assert q.get(timeout=0) == late
        assert q.get(timeout=0) == bytes(100)
        threads[0].join(30)
        assert done == [1, 0]
        assert len(drain(q)) == rooms[0]


# ---------------------------------------------------------------------------------------------- processes


def test_processes_that_put_on_all_levels_at_once_keep_the_order_of_each(spawn: Start) -> None:
    with queue_of_bytes("levels", priorities=LEVELS, capacity=256 * KIB) as q:
        code = """
            import random, sys, isthmus
            me = int(sys.argv[1])
            choose = random.Random(me)
            counts = [0] * 4
            with isthmus.Queue.open("levels", type=bytes) as q:
                for _ in range(800):
                    level = choose.randrange(4)
                    counts[level] += 1
                    head = bytes([me, level]) + counts[level].to_bytes(2, "little")
                    q.put(head + bytes(choose.choice([0, 100, 5000])), timeout=30, priority=level)
                print(*counts)
        """
        peers = [spawn(code, number) for number in range(3)]
        last: dict[tuple[int, int], int] = {}
        for _ in range(3 * 800):
            got = q.get(timeout=30)
            who, number = (got[0], got[1]), int.from_bytes(got[2:4], "little")
            assert number == last.get(who, 0) + 1
            last[who] = number
        for me, peer in enumerate(peers):
            counts = [int(count) for count in peer.finish().split()]
            assert counts == [last[me, level] for level in range(LEVELS)]
        assert idle(q)


@pytest.mark.parametrize("level", range(LEVELS))
def test_one_who_waits_is_woken_by_every_level(spawn: Start, level: int) -> None:
    with queue_of_bytes("levels", priorities=LEVELS) as q:
        peer = spawn("""
            import isthmus
            with isthmus.Queue.open("levels", type=bytes) as q:
                print(q.get(), flush=True)
        """)
        wait_until(lambda: q.stats().consumers_waiting == 1, "the peer to wait")
        q.put(b"x", priority=level)
        peer.expect("b'x'")
        peer.finish()


def test_the_end_comes_when_all_levels_are_empty(q: isthmus.Queue[bytes]) -> None:
    for level in range(LEVELS):
        q.put(bytes([level]), priority=level)
    q.shutdown()
    with pytest.raises(isthmus.ShutDown):
        q.put(b"x", priority=2)
    assert list(q) == [bytes([level]) for level in reversed(range(LEVELS))]


# ---------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("wrong", [-1, LEVELS, 16, 256, 1 << 40])
def test_a_priority_that_the_queue_does_not_have_is_refused(q: isthmus.Queue[bytes], wrong: int) -> None:
    calls: list[Callable[[], object]] = [
        lambda: q.put(b"x", priority=wrong),
        lambda: q.put_many([b"x"], priority=wrong),
        lambda: q.reserve(10, priority=wrong),
        lambda: q.reserve(10_000, priority=wrong),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"{wrong}.*0 to {LEVELS - 1}"):
            call()
    assert idle(q)


def test_a_queue_without_priorities_says_how_to_get_them() -> None:
    with queue_of_bytes() as q:
        assert q.priorities == 1
        q.put(b"x", priority=0)
        with pytest.raises(ValueError, match="priorities="):
            q.put(b"x", priority=1)


@pytest.mark.parametrize("wrong", ["1", 1.0, None, b"1"])
def test_a_priority_that_is_no_integer_is_a_type_error(q: isthmus.Queue[bytes], wrong: Any) -> None:
    for call in (lambda: q.put(b"x", priority=wrong), lambda: q.put_many([b"x"], priority=wrong)):
        with pytest.raises(TypeError):
            call()
    assert q.empty()


@pytest.mark.parametrize("wrong", [0, -1, 17, 1 << 40])
def test_an_impossible_number_of_levels_is_refused_and_named(wrong: int) -> None:
    with pytest.raises((ValueError, OverflowError), match=str(wrong)):
        isthmus.Queue(type=bytes, priorities=wrong)


def test_another_number_of_levels_is_refused_with_both_named() -> None:
    with queue_of_bytes("levels", priorities=3, max_deliveries=5) as q:
        assert isthmus.Queue.open("levels", type=bytes).priorities == 3
        with queue_of_bytes("levels", priorities=3, max_deliveries=5) as same:
            assert (same.priorities, same.max_deliveries) == (3, 5)
        with pytest.raises(isthmus.IncompatibleError, match=r"priorities=3.*priorities=2"):
            isthmus.Queue("levels", type=bytes, priorities=2)
        with pytest.raises(isthmus.IncompatibleError, match=r"max_deliveries=5.*max_deliveries=6"):
            isthmus.Queue("levels", type=bytes, max_deliveries=6)
        assert (q.priorities, q.max_deliveries) == (3, 5)
