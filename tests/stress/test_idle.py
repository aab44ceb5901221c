"""An idle waiter sleeps: it wakes by itself no more often than the slices in `wait.rs` say.

Counted, not timed: a thread that falls asleep is one voluntary switch in the kernel's books, and a slow or
loaded machine makes them fewer. What share of a CPU that costs is printed, and only a share that nobody who
sleeps could use fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import isthmus
from support import Peer

Start = Callable[..., Peer]

DATA_SLICE = 0.2
"""Seconds a wait for messages sleeps before it looks again."""
WATCH_SLICE = 0.08
"""The same where the death of a process has to be noticed: for a lock, for room, for a stream's messages."""

MARGIN = 2.0
"""Threads of one process also wait for the GIL, which the slices say nothing about."""
BUSY = 0.02
"""The share of a CPU from which on a process is not idle: twenty times what was measured."""
SECONDS = 2.0
SPANS = 10


@dataclass(frozen=True)
class Wait:
    """One way to wait, by how many threads at once, and how long each sleeps at a time."""

    call: str
    slice: float
    threads: int = 1


WAITS = {
    "get": Wait("q.get()", DATA_SLICE),
    "get_many": Wait("q.get_many(10)", DATA_SLICE),
    "get with a timeout": Wait("q.get(timeout=1000)", DATA_SLICE),
    "iteration": Wait("next(iter(q))", DATA_SLICE),
    "get of a stream with a living producer": Wait("stream.get()", WATCH_SLICE),
    "put": Wait("full.put(bytes(1000))", WATCH_SLICE),
    "acquire": Wait("lock.acquire()", WATCH_SLICE),
    "four threads": Wait("crowd(4)", DATA_SLICE, threads=4),
}

PRELUDE = """
import sys, threading, isthmus
q = isthmus.Queue.open("q", type=bytes)
stream = isthmus.Queue.open("stream", type=bytes)
full = isthmus.Queue.open("full", type=bytes)
lock = isthmus.Mutex.open("lock")
def crowd(count):
    threads = [threading.Thread(target=q.get) for _ in range(count)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print("waiting", flush=True)
"""


def switches(pid: int) -> int:
    """How often the threads of a process have fallen asleep."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/status"):
        words = path.read_text().split()
        total += int(words[words.index("voluntary_ctxt_switches:") + 1])
    return total


def cpu_seconds(pid: int) -> float:
    """What all threads of a process have used: schedstat has nanoseconds, /proc/<pid>/stat only 10 ms."""
    paths = list(Path(f"/proc/{pid}/task").glob("*/schedstat"))
    if not paths:
        pytest.skip("this kernel has no /proc/<pid>/task/<tid>/schedstat (CONFIG_SCHED_INFO)")
    return sum(int(path.read_text().split()[0]) for path in paths) / 1e9


def measure(peers: dict[str, Peer]) -> dict[str, tuple[float, float]]:
    """Of each peer: how many times the sleeps that its slices allow it took, and its share of a CPU."""
    start = time.monotonic()
    before = {name: (switches(peer.pid), cpu_seconds(peer.pid)) for name, peer in peers.items()}
    time.sleep(SECONDS)
    after = {name: (switches(peer.pid), cpu_seconds(peer.pid)) for name, peer in peers.items()}
    span = time.monotonic() - start
    measured = {}
    for name, wait in WAITS.items():
        allowed = wait.threads * (span / wait.slice + 1)
        slept, used = (b - a for a, b in zip(before[name], after[name], strict=True))
        measured[name] = (slept / allowed, used / span)
    return measured


def test_idle_waiters_sleep_as_long_as_their_slices(spawn: Start) -> None:
    """All kinds at once, each in a process of its own; each is at rest in one of several spans."""
    with (
        isthmus.Queue("q", capacity=1 << 20, type=bytes),
        isthmus.Queue("stream", capacity=1 << 20, type=bytes, ends_with_producers=True) as stream,
        isthmus.Queue("full", capacity=64 << 10, type=bytes) as full,
    ):
        stream.put(b"x")
        stream.get()
        try:
            while True:
                full.put(bytes(1000), timeout=0)
        except isthmus.Full:
            pass
        lock = isthmus.Mutex("lock")
        with lock:
            peers = {name: spawn(PRELUDE + wait.call) for name, wait in WAITS.items()}
            for peer in peers.values():
                peer.expect("waiting")
            restless = set(peers)
            for _ in range(SPANS):
                for name, (ratio, share) in measure(peers).items():
                    print(f"{name}: {ratio:.2f} of the sleeps it may take, {share:.3%} of a CPU")
                    if ratio <= MARGIN and share <= BUSY:
                        restless.discard(name)
                if not restless:
                    break
            assert not restless, f"in none of {SPANS} spans at rest: {restless}"
            for peer in peers.values():
                peer.kill()
        lock.close()
        while not full.empty():
            full.get(timeout=0)
