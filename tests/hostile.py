"""Damage to the memory of objects that processes use, and those processes: all of it follows from seeds."""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support import HEADER, Peer, process_state, wait_until

WORD_MAX = (1 << 64) - 1
REGISTRY_SLOT = 128
REGISTRY_HEADER = 4096

SEED = int(os.environ.get("ISTHMUS_TEST_SEED", "20261121"))
"""First seed of every test; another one makes other damage."""


@dataclass
class Damaged:
    """The file of an object or a registry, mapped, to be damaged and put back."""

    path: Path
    parts: list[tuple[int, int]]
    """Beginning and end of the parts that are hit, each as often as any other."""
    meaningful: list[int] = field(default_factory=lambda: [0])
    """Words that mean something where they stand: owners, positions, lengths."""

    def __post_init__(self) -> None:
        descriptor = os.open(self.path, os.O_RDWR)
        self.words = memoryview(mmap.mmap(descriptor, 0)).cast("Q")
        self.image = bytes(self.words)
        os.close(descriptor)

    def restore(self) -> None:
        """Makes the memory what it was when it was mapped, or when `keep` was called."""
        self.words[:] = memoryview(self.image).cast("Q")

    def keep(self) -> None:
        """The memory as it is now is what `restore` gives back."""
        self.image = bytes(self.words)

    def hit(self, choose: random.Random) -> None:
        """Overwrites one word."""
        start, end = choose.choice(self.parts)
        near = min(end, start + choose.choice([64, 512, 1 << 40]))
        index = choose.randrange(start // 8, max(start // 8 + 1, near // 8))
        found = self.words[index]
        self.words[index] = (
            choose.choice(
                [
                    0,
                    WORD_MAX,
                    choose.randrange(16),
                    1 << choose.randrange(64),
                    found ^ 1 << choose.randrange(64),
                    found + choose.randrange(-16, 17) * 8,
                    choose.choice(self.meaningful) | choose.randrange(8),
                    choose.choice(self.meaningful),
                    self.words[choose.randrange(len(self.words))],
                    choose.getrandbits(64),
                ]
            )
            & WORD_MAX
        )

    def damage(self, choose: random.Random) -> None:
        """Overwrites one word, a few or many."""
        for _ in range(choose.choice([1, 1, 2, 8, 50])):
            self.hit(choose)


def object_parts(path: Path) -> list[tuple[int, int]]:
    """Header, attachments, the words that all users share, and the rest, of the file of an object."""
    size = path.stat().st_size
    control = min(HEADER + 1024, size)
    parts = [(0, 256), (4096, HEADER), (HEADER, control)]
    rest = range(control, size, max(8, (size - control) // 4 & ~7))
    return parts + [(at, min(at + rest.step, size)) for at in rest]


def owners(path: Path) -> list[int]:
    """Owner words of all processes that have a cell in the attachments of an object."""
    with path.open("rb") as file:
        file.seek(4096)
        table = file.read(HEADER - 4096)
    words = memoryview(table).cast("Q")[::4]
    return [word for word in words if word] or [0]


def memory_of(pid: int) -> int:
    """Bytes of a process's own memory, without what it shares."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"process {pid} is {process_state(pid)!r}")


def descriptors_of(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@contextmanager
def watched(*peers: Peer, grows_by: int = 48 << 20) -> Iterator[None]:
    """Processes that must not grow and not leak descriptors in the block; both are looked at in the end."""
    before = [(memory_of(peer.pid), descriptors_of(peer.pid)) for peer in peers]
    yield
    for peer, (memory, descriptors) in zip(peers, before, strict=True):
        assert memory_of(peer.pid) < memory + grows_by, f"process {peer.pid} grew from {memory}"
        wait_until(
            lambda pid=peer.pid, limit=descriptors: descriptors_of(pid) <= limit,  # type: ignore[misc]
            f"process {peer.pid} to have {descriptors} descriptors",
        )


PRELUDE = """
import contextlib, faulthandler, random, sys, warnings
import isthmus

warnings.simplefilter("ignore")
held = []

def attempt(call):
    # Nothing else may come out of damaged memory: not MemoryError, not OSError, not the panic of a bug.
    with contextlib.suppress(isthmus.IsthmusError):
        return call()

def reserve(size, priority):
    with q.reserve(size, timeout=0, priority=priority) as block:
        block[:] = bytes(size)

def lease(end, view):
    job = q.lease(timeout=0, view=view)
    held.append(job)
    bytes(job.message), job.delivery_count, job.number, job.priority, job.sender
    if end:
        held.pop()
        getattr(job, end)()

def recover():
    with lock.recover(timeout=0):
        pass

def hold():
    if lock.acquire(timeout=0):
        lock.release()

CALLS = [
    lambda: q.put(bytes(50), 0, priority=choose.randrange(2)),
    lambda: q.put(bytes(9000), 0, priority=choose.randrange(2)),
    lambda: q.put_many([bytes(20)] * 5, 0),
    lambda: q.put(b"x", 0, until="done"),
    lambda: reserve(choose.choice([10, 9000]), 0),
    lambda: q.get(0),
    lambda: q.get(0),
    lambda: q.get_many(10, 0),
    lambda: held.append(q.get_view(0)),
    lambda: lease(choose.choice(["ack", "nack", "reject", None]), choose.random() < 0.5),
    lambda: held.clear(),
    lambda: (q.stats(), q.qsize(), q.fill, q.empty(), repr(q)),
    lambda: (q.wait_readable(0), q.wait_writable(0, below=0.5)),
    lambda: (len(q.dead), q.dead.peek(), q.dead.get()),
    lambda: q.dead.requeue(),
    lambda: isthmus.Queue.open("jobs", type=bytes).close(),
    lambda: isthmus.objects(),
    lambda: hold(),
    lambda: recover(),
    lambda: (lock.locked(), lock.owner(), repr(lock)),
    lambda: (number.get(), number.set(5), number.compare_and_set(5, 6), number.exchange(7)),
    lambda: isthmus.Mutex.open("lock").close(),
    lambda: isthmus.Value.open("number").close(),
]

q = isthmus.Queue.open("jobs", type=bytes)
lock = isthmus.Mutex.open("lock")
number = isthmus.Value.open("number")
"""
"""Opens a queue of two levels, a mutex and a value; `CALLS` are what users do with them without waiting."""

ON_DEMAND = (
    PRELUDE
    + """
print("ready", flush=True)
for line in sys.stdin:
    faulthandler.dump_traceback_later(60, exit=True)
    choose = random.Random(int(line))
    for call in choose.choices(CALLS, k=6):
        attempt(call)
    print("survived", line.strip(), flush=True)
"""
)
"""For each number on standard input, calls that follow from it."""

ALL_THE_TIME = (
    PRELUDE
    + """
choose = random.Random(int(sys.argv[1]))
calls = 0
print("ready", flush=True)
sys.stdin.readline()
while True:
    faulthandler.dump_traceback_later(60, exit=True)
    for call in choose.choices(CALLS, k=500):
        attempt(call)
    calls += 500
    print(calls, flush=True)
"""
)
"""From a line on standard input on, makes calls until it is ended, and counts."""
