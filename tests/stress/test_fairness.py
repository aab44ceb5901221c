"""Nobody starves: a waiter gets its turn although other processes take the lock again and again.

Turns are counted, not seconds: without claims one that waits is passed hundreds of thousands of times.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import isthmus
from support import PATIENCE, wait_until

TURNS = 20


@pytest.fixture
def busy() -> Iterator[Callable[[Any], None]]:
    """Starts processes that take and give a lock all the time, until the test ends."""
    pids = []
    turns = isthmus.Value()

    def start(lock: Any) -> None:
        if (pid := os.fork()) == 0:
            try:
                while True:
                    with lock:
                        turns.add(1)
            finally:
                os._exit(1)
        pids.append(pid)
        wait_until(lambda: turns.get() > 100, "it to work")

    yield start
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


LOCKS: dict[str, Callable[[], Any]] = {
    "Mutex": isthmus.Mutex,
    "RLock": isthmus.RLock,
    "Semaphore": lambda: isthmus.Semaphore(value=1),
    "BoundedSemaphore": lambda: isthmus.BoundedSemaphore(value=1),
    "Condition": isthmus.Condition,
}


@pytest.mark.parametrize("kind", LOCKS)
def test_a_waiter_is_served_under_barging(busy: Callable[[Any], None], kind: str) -> None:
    lock = LOCKS[kind]()
    for _ in range(3):
        busy(lock)
    for _ in range(TURNS):
        assert lock.acquire(timeout=PATIENCE) is True
        lock.release()


@pytest.mark.parametrize("side", ["read", "write"])
def test_neither_readers_nor_writers_starve(busy: Callable[[Any], None], side: str) -> None:
    lock = isthmus.RWLock()
    mine, theirs = (lock.read, lock.write) if side == "read" else (lock.write, lock.read)
    for _ in range(3):
        busy(theirs)
    for _ in range(TURNS):
        assert mine.acquire(timeout=PATIENCE) is True
        mine.release()


@pytest.mark.parametrize("kind", ["Mutex", "RLock", "Semaphore", "BoundedSemaphore"])
def test_equals_get_their_share(kind: str) -> None:
    """Four processes at once; each of them has its turns before any has all."""
    lock = LOCKS[kind]()
    counts = [isthmus.Value() for _ in range(4)]
    pids = []
    for count in counts:
        if (pid := os.fork()) == 0:
            try:
                while True:
                    with lock:
                        count.add(1)
            finally:
                os._exit(1)
        pids.append(pid)
    try:
        wait_until(lambda: min(count.get() for count in counts) >= TURNS, "each to have its turns")
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
