"""An idle waiter takes at most 0.1 % of a CPU, measured over seconds by the kernel's own clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

import isthmus
from support import Peer

Start = Callable[..., Peer]

BUDGET = 0.001
SECONDS = 3.0

WAITS = {
    "get": "q.get()",
    "get_many": "q.get_many(10)",
    "get with a timeout": "q.get(timeout=1000)",
    "iteration": "next(iter(q))",
    "get of a stream with a living producer": "stream.get()",
    "put": "full.put(bytes(1000))",
    "acquire": "lock.acquire()",
    "four threads": "crowd()",
}

PRELUDE = """
import sys, threading, isthmus
q = isthmus.Queue.open("q")
stream = isthmus.Queue.open("stream")
full = isthmus.Queue.open("full")
lock = isthmus.Mutex.open("lock")
def crowd():
    threads = [threading.Thread(target=q.get) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print("waiting", flush=True)
"""


def cpu_seconds(pid: int) -> float:
    """What all threads of a process have used: schedstat has nanoseconds, /proc/<pid>/stat only 10 ms."""
    paths = list(Path(f"/proc/{pid}/task").glob("*/schedstat"))
    if not paths:
        pytest.skip("this kernel has no /proc/<pid>/task/<tid>/schedstat (CONFIG_SCHED_INFO)")
    return sum(int(path.read_text().split()[0]) for path in paths) / 1e9


def test_idle_waiters_take_at_most_a_thousandth_of_a_cpu(spawn: Start) -> None:
    """All kinds at once, each in a process of its own; the best of three spans, as others use the machine."""
    with (
        isthmus.Queue("q", capacity=1 << 20),
        isthmus.Queue("stream", capacity=1 << 20, ends_with_producers=True) as stream,
        isthmus.Queue("full", capacity=64 << 10) as full,
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
            peers = {wait: spawn(PRELUDE + code) for wait, code in WAITS.items()}
            for peer in peers.values():
                peer.expect("waiting")
            time.sleep(1)
            best = dict.fromkeys(peers, 1.0)
            for _ in range(3):
                start = time.monotonic()
                before = {wait: cpu_seconds(peer.pid) for wait, peer in peers.items()}
                time.sleep(SECONDS)
                span = time.monotonic() - start
                for wait, peer in peers.items():
                    best[wait] = min(best[wait], (cpu_seconds(peer.pid) - before[wait]) / span)
                if max(best.values()) <= BUDGET:
                    break
            print({wait: f"{share:.3%}" for wait, share in best.items()})
            over = {wait: f"{share:.3%}" for wait, share in best.items() if share > BUDGET}
            assert not over, f"over {BUDGET:.1%} of a CPU: {over}"
            for peer in peers.values():
                peer.kill()
        lock.close()
        while not full.empty():
            full.get(timeout=0)
