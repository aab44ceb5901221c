"""The objects of synchronization that ``isthmus demo --all`` shows: two processes count under each."""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import isthmus

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 20.0
"""Seconds after which the other process is given up."""


def _add(number: Any) -> None:
    # Not one step on purpose: without the lock, counts would be lost.
    number.set(number.get() + 1)


def _under(lock: Any, number: Any, rounds: int) -> None:
    for _ in range(rounds):
        if not lock.acquire(PATIENCE):
            raise isthmus.Timeout("the other process does not give the lock back")
        _add(number)
        lock.release()


def _mutex(name: str, number: Any, _first: bool, rounds: int) -> None:
    _under(isthmus.Mutex(name), number, rounds)


def _rlock(name: str, number: Any, _first: bool, rounds: int) -> None:
    lock = isthmus.RLock(name)
    for _ in range(rounds):
        with lock:
            _under(lock, number, 1)


def _semaphore(name: str, number: Any, _first: bool, rounds: int) -> None:
    _under(isthmus.Semaphore(name, 1), number, rounds)


def _bounded(name: str, number: Any, _first: bool, rounds: int) -> None:
    _under(isthmus.BoundedSemaphore(name, 1), number, rounds)


def _rwlock(name: str, number: Any, _first: bool, rounds: int) -> None:
    lock = isthmus.RWLock(name)
    for _ in range(rounds):
        with lock.read:
            number.get()
        _under(lock.write, number, 1)


def _lockset(name: str, number: Any, first: bool, rounds: int) -> None:
    one, two = isthmus.Mutex(f"{name}-1"), isthmus.Mutex(f"{name}-2")
    _under(isthmus.LockSet(one, two) if first else isthmus.LockSet(two, one), number, rounds)


def _condition(name: str, number: Any, first: bool, rounds: int) -> None:
    condition = isthmus.Condition(name)
    for _ in range(rounds):
        with condition:
            if not condition.wait_for(lambda: number.get() % 2 != first, PATIENCE):
                raise isthmus.Timeout("the other process does not take its turn")
            _add(number)
            condition.notify_all()


def _event(name: str, number: Any, first: bool, rounds: int) -> None:
    mine, other = (isthmus.Event(f"{name}-{side}") for side in ((first), (not first)))
    if first:
        mine.set()
    for _ in range(rounds):
        if not mine.wait(PATIENCE):
            raise isthmus.Timeout("the other process does not take its turn")
        mine.clear()
        _add(number)
        other.set()


def _barrier(name: str, number: Any, first: bool, rounds: int) -> None:
    barrier = isthmus.Barrier(name, 2)
    for turn in range(2 * rounds):
        if turn % 2 == first:
            _add(number)
        barrier.wait(PATIENCE)


def _named(name: str, number: Any, _first: bool, rounds: int) -> None:
    semaphore = isthmus.NamedSemaphore(f"/{name}", 1)
    _under(semaphore, number, rounds)
    with suppress(FileNotFoundError):  # who ends first removes it
        semaphore.unlink()
    semaphore.close()


def _range(name: str, number: Any, _first: bool, rounds: int) -> None:
    with isthmus.MappedFile(Path(tempfile.gettempdir()) / name, 8) as file:
        lock = file.lock(0, 8)
        for _ in range(rounds):
            with lock:
                _add(number)
        with suppress(FileNotFoundError):
            file.unlink()


def _value(_name: str, number: Any, _first: bool, rounds: int) -> None:
    for _ in range(rounds):
        number.add(1)


TURNS: dict[str, tuple[Callable[[str, Any, bool, int], None], str]] = {
    "Mutex": (_mutex, "one at a time"),
    "RLock": (_rlock, "taken twice each time"),
    "RWLock": (_rwlock, "a read and a write each"),
    "Semaphore": (_semaphore, "one permit"),
    "BoundedSemaphore": (_bounded, "one permit"),
    "LockSet": (_lockset, "two mutexes, asked for crosswise"),
    "Condition": (_condition, "in turns"),
    "Event": (_event, "in turns"),
    "Barrier": (_barrier, "in step"),
    "NamedSemaphore": (_named, "one permit, the C library's"),
    "RangeLock": (_range, "a lock on a part of a file"),
    "Value": (_value, "atomic, no lock"),
}
"""By the name that is shown: what each process does, and how."""


def take_turns(mechanism: str, name: str, first: bool, rounds: int) -> float:
    """One of the two processes; when both had come, by `time.perf_counter`."""
    number = isthmus.Value(f"{name}-number", initial=0)
    start = isthmus.Barrier(f"{name}-start", 2)
    start.wait(PATIENCE)
    began = time.perf_counter()
    TURNS[mechanism][0](name, number, first, rounds)
    return began


if __name__ == "__main__":
    take_turns(sys.argv[1], sys.argv[2], False, int(sys.argv[3]))
