"""A lock, with and without somebody else who wants it."""

from __future__ import annotations

from benches.compare.contenders import Control, Lock
from benches.compare.peers import ISTHMUS_LOCK, LOCKS

from .base import Case, Choice, Target, case


@case("mutex")
def uncontended(choice: Choice) -> Case:
    return Case(
        "mutex",
        "Mutex, acquire and release, uncontended",
        "ns",
        [*(Lock(lock, 1) for lock in (ISTHMUS_LOCK, *LOCKS)), Control("swap", "C: two compare-and-swaps")],
        [Target("isthmus", "mp-lock", at_most=1.3)],
        "`acquire()` and `release()` in a loop by one process, the loop's own 10 to 20 ns included.",
        "It is the price of a lock nobody else wants. A lock whose last holder ran on another core costs "
        "a cache miss more. multiprocessing.Lock does not survive the death of its holder; this one does.",
    )


@case("mutex-contended")
def contended(choice: Choice) -> Case:
    return Case(
        "mutex-contended",
        "Mutex, two processes contending",
        "M/s",
        [
            *(Lock(lock, 2) for lock in (ISTHMUS_LOCK, *LOCKS)),
            Control("cacheline", "C: cache line there and back"),
        ],
        [Target("isthmus", "mp-lock", at_least=1)],
        "Two processes on two cores take and give back one lock for the same length of time; the figure "
        "is how often they had it, together. The smallest share that one of them got is in the raw "
        "figures.",
        "Nothing is done while the lock is held. With real work inside, throughput approaches the work's "
        "own, and fairness matters more than this figure: a lock that lets one process keep it looks "
        "fast here.",
    )
