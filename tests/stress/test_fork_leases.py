"""Fork with leases, views and reservations out: they are the parent's; the child has its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

import isthmus
from forking import PRELUDE, run
from support import Peer

Start = Callable[..., Peer]

BY_SIZE = pytest.mark.parametrize("size", [10, 100_000])

# Two handles: what the child does with the inherited one must not show in the other.
QUEUES = """
q = isthmus.Queue("forked", type=bytes, capacity=1 << 20)
other = isthmus.Queue.open("forked", type=bytes)

def numbers():
    stats = other.stats()
    return stats.depth, stats.leased, stats.dead
def used():
    return other.stats().bytes_in_use
"""


@BY_SIZE
@pytest.mark.parametrize(
    "leaving", ["job.ack()", "job.nack()", "job.reject()", "job.__exit__(None, None, None)", "del job"]
)
def test_a_child_ends_no_lease_of_its_parent(size: int, leaving: str) -> None:
    run(f"""{QUEUES}
q.put(bytes({size}))
job = q.lease()
def work():
    global job
    {leaving}
    assert numbers() == (0, 1, 0), numbers()
join(child(work))
assert numbers() == (0, 1, 0), numbers()
assert job.message == bytes({size}) and not job.ended
job.ack()
assert (numbers(), used()) == ((0, 0, 0), 0)
""")


@BY_SIZE
@pytest.mark.parametrize("view", [False, True])
@pytest.mark.parametrize("how", ["to its end", "by an exception", "and exits as Python does"])
def test_a_child_that_leaves_the_block_leaves_the_lease(size: int, view: bool, how: str) -> None:
    """The three ways out of a block, the last with all that Python does at its end."""
    run(f"""{QUEUES}
q.put(bytes({size}))
pid = parent = 0
try:
    with q.lease(view={view}) as job:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0 and {how!r} == "by an exception":
            raise KeyError("only in the child")
        if pid == 0 and {how!r} == "and exits as Python does":
            sys.exit(0)
        if pid:
            join(pid)
            assert numbers() == (0, 1, 0), numbers()
            assert bytes(job.message) == bytes({size})
except KeyError:
    assert os.getpid() != parent
if os.getpid() != parent:
    assert numbers() == (0, 1, 0), numbers()
    os._exit(0)
del job
assert (numbers(), used()) == ((0, 0, 0), 0), (numbers(), used())
""")


@pytest.mark.parametrize(
    "leaving", ["view.release()", "memory.release(); view.release()", "del view, memory", "sys.exit()"]
)
def test_a_child_gives_no_view_of_its_parent_back(leaving: str) -> None:
    run(f"""{QUEUES}
message = os.urandom(100_000)
q.put(message)
view = q.get_view()
memory = memoryview(view)
pid = os.fork()
if pid == 0:
    assert memory == message
    {leaving}
    os._exit(0)
join(pid)
before = used()
assert before >= 100_000
for _ in range(3):
    while True:
        try: other.put(bytes(20_000), timeout=0)
        except isthmus.Full: break
    assert memory == message
    while not other.empty(): other.get()
assert used() == before
del memory
view.release()
assert used() == 0
""")


@BY_SIZE
@pytest.mark.parametrize("how", ["to its end", "by an exception", "by put()", "by cancel()", "by del"])
def test_a_child_neither_puts_nor_cancels_a_reservation_of_its_parent(size: int, how: str) -> None:
    run(f"""{QUEUES}
reservation = q.reserve({size})
parent, pid = os.getpid(), 0
try:
    with reservation as block:
        block[:] = b"p" * {size}
        pid = os.fork()
        if pid == 0:
            match {how!r}:
                case "by an exception": raise KeyError
                case "by put()": reservation.put()
                case "by cancel()": reservation.cancel()
                case "by del": del block, reservation; os._exit(0)
        else:
            join(pid)
            assert numbers() == (0, 0, 0), numbers()
            assert block == b"p" * {size}
except KeyError:
    assert os.getpid() != parent
if os.getpid() != parent:
    assert numbers() == (0, 0, 0), numbers()
    os._exit(0)
assert q.get(timeout=0) == b"p" * {size}
assert (numbers(), used()) == ((0, 0, 0), 0)
""")


@BY_SIZE
def test_the_child_has_leases_views_and_reservations_of_its_own(size: int) -> None:
    run(f"""{QUEUES}
q.put_many([bytes({size})] * 4)
held = q.lease()
def work():
    with q.lease(timeout=5) as job:
        assert (job.delivery_count, numbers()) == (1, (2, 2, 0))
    with q.get_view(timeout=5) as view:
        assert len(view) == {size}
    with q.reserve(20) as block:
        block[:] = b"c" * 20
    assert q.lease(timeout=5).message == bytes({size})  # dropped: it goes back
    assert q.stats().consumers_waiting == 0
join(child(work))
assert numbers() == (2, 1, 0), numbers()
held.nack()
assert [len(q.get(timeout=0)) for _ in range(3)] == [{size}, {size}, 20]
assert (numbers(), used()) == ((0, 0, 0), 0)
""")


@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit()", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_what_a_child_had_on_lease_when_it_ended_comes_to_its_parent(end: str) -> None:
    run(f"""{QUEUES}
q.put_many([b"1", bytes(5000)])
if os.fork() == 0:
    jobs = [q.lease(), q.lease()]
    view_memory = q.reserve(9000)
    {end}
os.wait()
assert numbers() == (2, 0, 0), numbers()
jobs = [q.lease(timeout=0), q.lease(timeout=0)]
assert [(len(job.message), job.delivery_count) for job in jobs] == [(1, 2), (5000, 2)]
for job in jobs: job.ack()
assert (numbers(), used()) == ((0, 0, 0), 0)
""")


def test_a_lease_is_the_dead_parents_although_its_child_lives_on(spawn: Start) -> None:
    with isthmus.Queue("orphaned", type=bytes, capacity=1 << 20) as q:
        q.put_many([b"small", bytes(50_000)])
        parent = spawn(f"""{PRELUDE}
q = isthmus.Queue.open("orphaned", type=bytes)
jobs, view = [q.lease()], q.lease(view=True)
pid = os.fork()
if pid == 0:
    time.sleep(60)
    os._exit(0)
say(pid)
sys.stdin.readline()
""")
        child = int(parent.line())
        try:
            with pytest.raises(isthmus.Empty):
                q.lease(timeout=0.3)
            parent.process.kill()
            for length in (5, 50_000):
                with q.lease(timeout=20) as job:
                    assert (len(job.message), job.delivery_count) == (length, 2)
        finally:
            os.kill(child, signal.SIGKILL)


def test_forked_while_other_threads_lease_all_the_time() -> None:
    """A child forked at any moment can lease; what its parent's threads have in hand stays theirs."""
    run(f"""{QUEUES}
stop = False
done = []
def consume():
    while not stop:
        try: job = q.lease(timeout=0.05)
        except isthmus.Empty: continue
        with job: done.append(int.from_bytes(job.message[:4], "little"))
def produce():
    number = 0
    while not stop:
        try: other.put(number.to_bytes(4, "little") + bytes(number % 3 * 3000), timeout=0.05)
        except isthmus.Full: continue
        number += 1
    done.append(-number)
threads = [threading.Thread(target=f) for f in (consume, consume, produce)]
for thread in threads: thread.start()
mine = isthmus.Queue(type=bytes, capacity=1 << 16)
def work():
    with q.get_view(timeout=20) as view:
        taken = bytes(view)[:4]
    for number in range(5):
        mine.put(bytes(number * 2000))
        with mine.lease(timeout=20) as job: assert len(job.message) == number * 2000
    mine.put(taken)
taken = []
for _ in range(30):
    join(child(work))
    taken.append(int.from_bytes(mine.get(timeout=20), "little"))
stop = True
for thread in threads: thread.join(20)
while not q.empty(): done.append(int.from_bytes(q.get()[:4], "little"))
count = -min(done)
done.remove(-count)
assert sorted(done + taken) == list(range(count)), (len(done), len(taken), count)
assert (numbers(), used()) == ((0, 0, 0), 0)
""")
