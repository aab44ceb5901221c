"""A loop with waiters sleeps: one timer for all of them, as seldom as the slices in `wait.rs` say.

Counted as in `test_idle.py`: a loop that falls asleep is one voluntary switch in the kernel's books.
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
"""Seconds after which a wait for messages is looked after."""
WATCH_SLICE = 0.08
"""The same where the death of a process has to be noticed."""

MARGIN = 2.0
BUSY = 0.02
"""The share of a CPU from which on a process is not idle: twenty times the aim of 0.1 %."""
SECONDS = 2.0
SPANS = 10


@dataclass(frozen=True)
class Wait:
    """What the tasks of one loop wait for, and how long it sleeps at a time."""

    calls: str
    slice: float


WAITS = {
    "nothing any more": Wait("await left()", 10.0),
    "get": Wait("await q.get()", DATA_SLICE),
    "get with a timeout": Wait("await q.get(timeout=1000)", DATA_SLICE),
    "a thousand": Wait("await asyncio.gather(*(q.get() for _ in range(1000)))", DATA_SLICE),
    "many objects": Wait(
        "await asyncio.gather(*(aio.Queue(type=bytes, capacity=1).get() for _ in range(50)))", DATA_SLICE
    ),
    "put": Wait("await full.put(bytes(1000))", WATCH_SLICE),
    "acquire": Wait("await lock.acquire()", WATCH_SLICE),
    "everything": Wait(
        "await asyncio.gather(*(q.get() for _ in range(100)), full.put(bytes(1000)), lock.acquire(), "
        "q.wait_readable(), full.wait_writable(below=0.1), stream.get())",
        WATCH_SLICE,
    ),
}

CODE = """
import asyncio, sys, uvloop
import isthmus
from isthmus import aio
q = aio.Queue.open("q", type=bytes)
stream = aio.Queue.open("stream", type=bytes)
full = aio.Queue.open("full", type=bytes)
lock = aio.Mutex.open("lock")

async def left():
    try:
        await q.get(timeout=0.01)
    except isthmus.Empty:
        await asyncio.Event().wait()

async def main():
    print("waiting", flush=True)
    {calls}

factory = asyncio.new_event_loop if {kind!r} == "asyncio" else uvloop.new_event_loop
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(main())
"""


def switches(pid: int) -> int:
    """How often the threads of a process have fallen asleep."""
    words = Path(f"/proc/{pid}/status").read_text().split()
    return int(words[words.index("voluntary_ctxt_switches:") + 1])


def cpu_seconds(pid: int) -> float:
    """What a process of one thread has used."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_loop_with_waiters_sleeps_as_long_as_their_slices(spawn: Start, kind: str) -> None:
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
            peers = {name: spawn(CODE.format(calls=wait.calls, kind=kind)) for name, wait in WAITS.items()}
            for peer in peers.values():
                peer.expect("waiting")
            restless = set(peers)
            for _ in range(SPANS):
                start = time.monotonic()
                before = {name: (switches(peer.pid), cpu_seconds(peer.pid)) for name, peer in peers.items()}
                time.sleep(SECONDS)
                after = {name: (switches(peer.pid), cpu_seconds(peer.pid)) for name, peer in peers.items()}
                span = time.monotonic() - start
                for name, wait in WAITS.items():
                    slept, used = (b - a for a, b in zip(before[name], after[name], strict=True))
                    ratio, share = slept / (span / wait.slice + 1), used / span
                    print(f"{kind}, {name}: {ratio:.2f} of the sleeps it may take, {share:.3%} of a CPU")
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
