"""Every lock without and with somebody else who wants it; conditions and barriers between two processes."""

from __future__ import annotations

from benches.compare.contenders import Control, Lock, RoundTrip
from benches.compare.peers import Peer
from benches.compare.peers.isthmus_peer import MUTEX
from benches.compare.peers.locks import (
    BARRIERS,
    CONDITIONS,
    ISTHMUS,
    MESSAGE,
    OTHERS,
    RLOCK,
    SEMAPHORE,
    WRITE,
)

from .base import BEST, Case, Choice, Target, case
from .round_trip import PAUSE


@case("locks")
def locks(choice: Choice) -> Case:
    return Case(
        "locks",
        "a lock taken and given back, uncontended",
        "ns",
        [*(Lock(lock, 1) for lock in (*ISTHMUS, *OTHERS)), Control("swap", "C: two compare-and-swaps")],
        [
            Target("isthmus", "mp-lock", at_most=1.3),
            Target("rlock", "mp-rlock", at_most=1.3),
            Target("semaphore", "mp-semaphore", at_most=2),
            Target("bounded", "mp-bounded", at_most=2),
            Target("is-set", "isthmus", at_most=1.5),
            Target("read", "isthmus", at_most=1.5),
        ],
        "`acquire()` and `release()` in a loop by one process, the loop's own 10 to 20 ns included; of "
        "`is_set()` it is the one call. All of Isthmus's give back what a killed holder had.",
        "Nobody else wants it, and the cache line is the core's own. A lock whose last holder ran on another "
        "core costs a cache miss more; `with` costs the two method objects that Python 3.11 makes for it.",
    )


@case("contended")
def contended(choice: Choice) -> Case:
    subjects = (MUTEX, RLOCK, SEMAPHORE, WRITE)
    others = [lock for lock in OTHERS if not lock.single]
    return Case(
        "contended",
        "a lock that two processes want",
        "M/s",
        [
            *(Lock(lock, 2) for lock in (*subjects, *others)),
            Control("cacheline", "C: cache line there and back"),
        ],
        [Target(lock.key, BEST, at_least=1) for lock in subjects],
        "Two processes on two cores take and give back one lock for the same length of time: how often they "
        "had it, together. The best peer is whichever is fastest in this run.",
        "Nothing is done while the lock is held; with work inside, throughput approaches the work's own. A "
        "lock that lets one process keep it looks fast here: the smallest share says whether it did.",
    )


def handing_over(key: str, title: str, peers: tuple[Peer, ...], pause: float, meaning: str) -> Case:
    control = Control("futex", "C: futex sleep and wake, there and back", round(pause * 1e6))
    return Case(
        key,
        title + (", 1 ms pause before each" if pause else ""),
        "us",
        [*(RoundTrip(peer, MESSAGE, pause) for peer in peers), control],
        [Target("isthmus", control.key, at_most=1.3)],
        meaning
        + (
            " The asker sleeps for 1 ms before each trip, so that the other side sleeps in the kernel."
            if pause
            else " Without a pause: the control sleeps at once, who waits here looks for a moment first."
        ),
        "Two processes on two cores. With more processes than cores a hand-over is a context switch for "
        "everyone, and looking for a moment before sleeping gains nothing.",
        latency=True,
        keep={peer.key for peer in peers},
    )


CONDITION = (
    "There and back by two conditions: a flag is raised under the lock and `notify` called; the other "
    "process, in `wait` until it sees the flag, lowers it and does the same. The control hands over by two "
    "bare futexes in C."
)
BARRIER = (
    "Two meetings at two barriers of two parties each, so that each process has waited for the other once, "
    "as with the control: there and back by two bare futexes in C."
)


@case("condition")
def condition(choice: Choice) -> Case:
    return handing_over("condition", "hand-over by conditions", CONDITIONS, 0.0, CONDITION)


@case("condition-paused")
def condition_paused(choice: Choice) -> Case:
    return handing_over("condition-paused", "hand-over by conditions", CONDITIONS, PAUSE, CONDITION)


@case("barrier")
def barrier(choice: Choice) -> Case:
    return handing_over("barrier", "hand-over by barriers", BARRIERS, 0.0, BARRIER)


@case("barrier-paused")
def barrier_paused(choice: Choice) -> Case:
    return handing_over("barrier-paused", "hand-over by barriers", BARRIERS, PAUSE, BARRIER)
