"""A stopped process keeps its leases, views and reservations; killed, it gives them to those who wait."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import isthmus
from queues import limit_of, pattern, queue_of_bytes
from support import Peer, wait_until

Start = Callable[..., Peer]

PRELUDE = """
import os, sys, threading, time, isthmus
def say(*text): print(*text, flush=True)
q = isthmus.Queue.open("held", type=bytes)
"""


def holder(spawn: Start, code: str) -> Peer:
    """A process that holds something until it is told to go on."""
    peer = spawn(f"{PRELUDE}{code}\nsay('holds')\nsys.stdin.readline()\n")
    peer.expect("holds")
    return peer


def waiter(spawn: Start, code: str) -> Peer:
    """A process that waits for something."""
    return spawn(f"{PRELUDE}{code}\nq.close()")


WAITS = {
    "lease": "with q.lease() as job: say(len(job.message), job.delivery_count)",
    "leases": "with next(q.leases()) as job: say(len(job.message), job.delivery_count)",
    "get": "say(len(q.get()), 2)",
    "get_many": "say(len(q.get_many(10)[0]), 2)",
    "get_view": "say(len(q.get_view()), 2)",
    "wait_readable": "q.wait_readable(); say(len(q.get(timeout=0)), 2)",
}


@pytest.mark.parametrize(("wait", "size"), list(zip(WAITS, [10, 100_000] * 3, strict=True)))
def test_a_stopped_holder_keeps_its_lease_and_a_killed_one_loses_it_to_one_who_waits(
    spawn: Start, wait: str, size: int
) -> None:
    with queue_of_bytes("held") as q:
        q.put(pattern(size))
        peer = holder(spawn, f"job = q.lease(view={size > 10})")
        waiting = waiter(spawn, WAITS[wait])
        wait_until(lambda: q.stats().consumers_waiting == 1, "the other to wait")
        peer.stop()
        with pytest.raises(isthmus.Empty):
            q.lease(timeout=0.5)
        assert (q.stats().leased, q.qsize()) == (1, 0)
        peer.kill()
        assert waiting.line() == f"{size} 2"
        waiting.finish()


def test_a_holder_that_goes_on_after_being_stopped_acknowledges_as_if_nothing_had_been(spawn: Start) -> None:
    with queue_of_bytes("held") as q:
        q.put_many([pattern(100_000), b"x"])
        peer = spawn(f"""{PRELUDE}
job, other = q.lease(view=True), q.lease()
say("holds")
sys.stdin.readline()
assert bytes(job.message)[:3] == bytes([0, 1, 2])
job.ack()
other.nack()
say("ended")
""")
        peer.expect("holds")
        peer.stop()
        with pytest.raises(isthmus.Empty):
            q.lease(timeout=2.5)
        peer.resume()
        peer.send()
        peer.expect("ended")
        with q.lease(timeout=20) as job:
            assert (job.message, job.delivery_count) == (b"x", 2)
        peer.finish()


HOLDS = {
    "a view": "view = q.get_view()",
    "an export of a view": "view = q.get_view(); memory = memoryview(view); view.release()",
    "a view on lease": "job = q.lease(view=True)",
    "a lease": "job = q.lease()",
    "a reservation": "q.get(); reservation = q.reserve(100_000)",
    "a message given back": "job = q.lease(view=True); m = memoryview(job.message); job.nack()",
}
PRODUCES = {
    "put": "q.put(bytes(size))",
    "put_many": "q.put_many([bytes(size)])",
    "reserve": "q.reserve(size).put()",
    "wait_writable": "q.wait_writable(below=0.01); q.put(bytes(size), timeout=0)",
}


@pytest.mark.parametrize(
    ("holds", "produce"),
    [
        *((holds, "put") for holds in HOLDS),
        *(("a view", produce) for produce in PRODUCES if produce != "put"),
    ],
)
def test_memory_of_a_killed_holder_comes_back_to_a_producer_that_waits(
    spawn: Start, holds: str, produce: str
) -> None:
    with queue_of_bytes("held") as q:
        largest = limit_of(q)
        q.put(pattern(100_000))
        peer = holder(spawn, HOLDS[holds])
        producer = waiter(spawn, f"size = {largest}\nsay('waits')\n{PRODUCES[produce]}\nsay('put')")
        producer.expect("waits")
        if "wait_writable" not in produce:
            wait_until(lambda: q.stats().producers_waiting == 1, "the producer to wait")
        peer.stop()
        with pytest.raises(isthmus.Full):
            q.put(bytes(largest), timeout=0.3)
        assert q.stats().put == 1
        peer.kill()
        if "lease" in holds or "given back" in holds:
            # The message itself comes back, and has to be taken before there is room.
            assert q.get(timeout=20) == pattern(100_000)
        producer.expect("put")
        producer.finish()
        assert len(q.get(timeout=0)) == largest
        assert q.stats().bytes_in_use == 0


def test_a_whole_table_of_leases_comes_back_to_one_who_waits(spawn: Start) -> None:
    with queue_of_bytes("held", capacity=64 << 10) as q:
        q.put_many([bytes([number]) for number in range(17)])
        peer = holder(spawn, "jobs = [q.lease() for _ in range(16)]")
        waiting = waiter(spawn, "for _ in range(17):\n    with q.lease() as job: say(job.message[0])")
        wait_until(lambda: q.stats().consumers_waiting == 1, "the other to wait")
        peer.stop()
        with pytest.raises(isthmus.Empty, match="leases"):
            q.lease(timeout=0.3)
        peer.kill()
        for number in range(17):
            waiting.expect(str(number))
        waiting.finish()
