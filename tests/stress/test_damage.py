"""Shared memory with bits flipped and words overwritten, under those who use it.

An error at worst: never a crash, never a wait without an end.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

import isthmus
from support import HEADER, Peer, get_word, put_word

Start = Callable[..., Peer]

CAPACITY = 256 << 10
CONTROL = 768
"""Bytes with which the body of a queue of two levels begins: locks, positions, wait points."""

MAKE = """
import os, isthmus
q = isthmus.Queue("stored", type=bytes, persistent=True, capacity=256 << 10, priorities=2)
q.put_many([b"a" * 10, b"b" * 10_000, b"c", b"d" * 5000, b"e", b"f" * 9000, b"g"])
q.put_many([b"A", b"B" * 6000, b"C", b"D"], priority=1)
for end in ("ack", "reject", "reject", "nack"):
    getattr(q.lease(timeout=0), end)()
held = [q.lease(timeout=0) for _ in range(3)]
os._exit(0)
"""


@pytest.fixture
def stored(namespace: Path, spawn: Start) -> Path:
    """The file of a queue in which there is something of all kinds: also what a dead process had on lease."""
    spawn(MAKE).finish()
    return namespace / "stored"


USE = """
import contextlib, faulthandler, warnings, isthmus
warnings.simplefilter("ignore")
faulthandler.dump_traceback_later(60, exit=True)
SOON = 0.002
held = []

def attempt(call, *args, **options):
    with contextlib.suppress(isthmus.IsthmusError, OSError, MemoryError, ValueError):
        return call(*args, **options)

def reserve(size, priority):
    with q.reserve(size, timeout=SOON, priority=priority) as block:
        block[:] = bytes(size)

def lease(end, view):
    job = q.lease(timeout=SOON, view=view)
    held.append((job, bytes(job.message), job.delivery_count, job.number, job.priority, job.sender))
    if end:
        getattr(job, end)()

def once():
    attempt(q.stats)
    attempt(q.qsize)
    attempt(lambda: q.fill)
    for size in (50, 9000):
        for priority in (0, 1):
            attempt(q.put, bytes(size), SOON, priority=priority)
            attempt(q.put_many, [bytes(size)] * 3, SOON, priority=priority)
            attempt(reserve, size, priority)
        attempt(q.put, bytes(size), SOON, until="received")
        attempt(q.put, bytes(size), SOON, until="done")
        attempt(lambda: bytes(q.get_view(SOON)))
        for end in ("ack", "nack", "reject", None):
            attempt(lease, end, view=False)
            attempt(lease, end, view=True)
        attempt(q.get, SOON)
    attempt(q.get_many, 5, SOON)
    attempt(q.wait_readable, SOON)
    attempt(q.wait_writable, SOON, below=0.1)
    attempt(lambda: len(q.dead))
    attempt(q.dead.peek)
    attempt(q.dead.get)
    attempt(q.dead.requeue)
    attempt(lambda: list(q.dead))

q = attempt(isthmus.Queue.open, "stored", type=bytes)
if q is not None:
    once()
    once()
    attempt(isthmus.objects)
    attempt(q.shutdown)
    attempt(q.get, SOON)
    held = held[::2]
    attempt(q.get_many, 1000, SOON)
    attempt(q.close)
held.clear()
"""

MANY = """
import os, random, sys, traceback
from pathlib import Path
path = Path(sys.argv[1])
original = path.read_bytes()
first, last = int(sys.argv[2]), int(sys.argv[3])
{damage}
for seed in range(first, last):
    data = bytearray(original)
    damage(seed, data)
    path.write_bytes(data)
    path.chmod(0o600)
    pid = os.fork()
    if pid == 0:
        try:
            exec(compile({code!r}, "use", "exec"))
        except BaseException:
            traceback.print_exc()
            os._exit(99)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        print("seed", seed, "status", os.waitstatus_to_exitcode(status), flush=True)
        sys.exit(1)
print("survived", flush=True)
"""


def each_time(spawn: Start, stored: Path, damage: str, first: int, count: int) -> None:
    """Uses the file in a process of its own after each damage; none of them may crash or hang."""
    peer = spawn("import isthmus\n" + MANY.format(damage=damage, code=USE), stored, first, first + count)
    code, out, errors = peer.end(110)
    assert code == 0, f"{out}\n{errors}"


ANYWHERE = """
def damage(seed, data):
    choose = random.Random(seed)
    for _ in range(choose.choice([1, 1, 2, 8, 100])):
        where = choose.randrange({start}, len(data) if choose.random() < 0.3 else {near})
        if choose.random() < 0.5:
            data[where] ^= 1 << choose.randrange(8)
        else:
            value = choose.choice([0, 1, (1 << 64) - 1, 1 << 63, 1 << 32, choose.getrandbits(64), len(data)])
            where &= ~7
            data[where : where + 8] = value.to_bytes(8, "little")
"""


@pytest.mark.parametrize("part", ["header", "control words", "rings", "leases", "table of blocks"])
def test_no_corruption_crashes_or_hangs_those_who_use_it(spawn: Start, stored: Path, part: str) -> None:
    """Bits flipped and words overwritten at random places of a part and, now and then, behind it."""
    with isthmus.Queue.open("stored", type=bytes) as handle:
        units = stored.stat().st_size - handle.message_max  # the file ends with them
    rings = HEADER + CONTROL
    leases = rings + CAPACITY // 2
    start, end = {
        "header": (0, HEADER),
        "control words": (HEADER, rings),
        "rings": (rings, rings + 16_384),
        "leases": (leases, leases + 2048),
        "table of blocks": (units - 4096, units),
    }[part]
    first = int(os.environ.get("ISTHMUS_TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 30)
    print("first seed", first)
    each_time(spawn, stored, ANYWHERE.format(start=start, near=end), first, 60)


EACH_WORD = """
def damage(number, data):
    where = {start} + number // 4 * 8
    data[where : where + 8] = (1, 2, 4, 7)[number % 4].to_bytes(8, "little")
"""


def test_no_small_number_in_any_control_word_hangs_those_who_use_it(spawn: Start, stored: Path) -> None:
    """Locks and wait points have flags in their low bits: flags that say something about nobody at all."""
    each_time(spawn, stored, EACH_WORD.format(start=HEADER), 0, CONTROL // 8 * 4)


def test_attributes_that_cannot_be_are_refused(spawn: Start, stored: Path) -> None:
    """Each attribute word of the header, one by one, set to odd values: refused, or used without harm."""
    original = stored.read_bytes()
    for index in range(16):
        for value in (1, 3, 1 << 20, 1 << 40, (1 << 64) - 1, get_word(stored, 0x80 + 8 * index) + 64):
            if value > (1 << 64) - 1:
                continue
            stored.write_bytes(original)
            stored.chmod(0o600)
            put_word(stored, 0x80 + 8 * index, value)
            code, out, errors = spawn(USE).end(90)
            assert code == 0, f"attribute {index} = {value:#x}\n{out}{errors}"


@pytest.mark.parametrize("flags", range(1, 8))
def test_a_mutex_held_by_nobody_is_poisoned_and_can_be_recovered(
    namespace: Path, spawn: Start, flags: int
) -> None:
    lock = isthmus.Mutex("lock")
    put_word(namespace / "lock", HEADER, flags)
    peer = spawn("""
        import isthmus
        lock = isthmus.Mutex.open("lock")
        for timeout in (10, None):
            try:
                lock.acquire(timeout)
            except isthmus.OwnerDied:
                print("nobody", flush=True)
        with lock.recover():
            pass
        with lock:
            print("healthy", flush=True)
    """)
    assert peer.end() == (0, "nobody\nnobody\nhealthy\n", "")
    lock.close()
