"""Sixteen threads at once on the objects of synchronization and on a value."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import isthmus
from forms import begin
from support import PATIENCE

THREADS = 16
TURNS = 100


def run(call: Callable[[], None]) -> None:
    for each in [begin(call) for _ in range(THREADS)]:
        each.result(PATIENCE)


LOCKS: dict[str, Callable[[], Any]] = {
    "RLock": isthmus.RLock,
    "Condition": isthmus.Condition,
    "Semaphore": lambda: isthmus.Semaphore(value=1),
    "BoundedSemaphore": lambda: isthmus.BoundedSemaphore(value=1),
    "write": lambda: isthmus.RWLock().write,
    "LockSet": lambda: isthmus.LockSet(isthmus.Mutex(), isthmus.RLock()),
}


@pytest.mark.parametrize("kind", LOCKS)
def test_one_is_inside(kind: str) -> None:
    lock = LOCKS[kind]()
    state = {"inside": 0, "turns": 0}

    def work() -> None:
        for turn in range(TURNS):
            if turn % 3:
                assert lock.acquire()
            else:
                while not lock.acquire(timeout=0.01):
                    pass
            state["inside"] += 1
            assert state["inside"] == 1
            state["turns"] += 1
            state["inside"] -= 1
            lock.release()

    run(work)
    assert state == {"inside": 0, "turns": TURNS * THREADS}


def test_so_many_are_inside_and_readers_are_together() -> None:
    pool, table = isthmus.BoundedSemaphore(value=3), isthmus.RWLock()
    guard = threading.Lock()
    state = {"inside": 0, "most": 0, "written": 0}

    def work() -> None:
        for turn in range(TURNS):
            with pool:
                with guard:
                    state["inside"] += 1
                    state["most"] = max(state["most"], state["inside"])
                if turn % 5:
                    with table.read:
                        assert table.writer() is None
                else:
                    with table.write:
                        assert table.readers() == []
                        state["written"] += 1
                with guard:
                    state["inside"] -= 1

    run(work)
    assert state["most"] <= 3
    assert (state["inside"], state["written"]) == (0, THREADS * TURNS // 5)
    assert (pool.value, table.readers()) == (3, [])


def test_a_barrier_opens_for_sixteen() -> None:
    barrier = isthmus.Barrier(parties=THREADS)
    numbers: list[int] = []

    def work() -> None:
        numbers.extend(barrier.wait() for _ in range(TURNS // 5))

    run(work)
    assert sorted(numbers) == sorted([*range(THREADS)] * (TURNS // 5))


def test_an_event_and_a_value() -> None:
    event, value = isthmus.Event(), isthmus.Value()

    def work() -> None:
        assert event.wait(timeout=PATIENCE)
        for _ in range(TURNS):
            value.add(1)
            assert event.is_set()

    waiting = [begin(work) for _ in range(THREADS)]
    event.set()
    for each in waiting:
        each.result(PATIENCE)
    assert value.get() == THREADS * TURNS
