"""What must not change as users and messages become more."""

from __future__ import annotations

from benches.compare.contenders import Alone, Contender, Control, Crowd
from benches.compare.peers import ISTHMUS

from .base import FLAT, Case, Choice, Target, case

MESSAGE = bytes(range(64))
ATTACHED = (1, 4, 16, 64)
DEPTHS = (1, 10, 100, 1_000, 10_000, 100_000)
DEEP_CAPACITY = 32 << 20  # the same for every depth


@case("crowd")
def crowd(choice: Choice) -> Case:
    contenders: list[Contender] = [Crowd(ISTHMUS, MESSAGE, 1, 1), Crowd(ISTHMUS, MESSAGE, 2, 2)]
    for peer in choice.some(64):
        if peer.key in ("mp-queue", "faster-fifo"):
            contenders += [Crowd(peer, MESSAGE, 1, 1), Crowd(peer, MESSAGE, 2, 2)]
    return Case(
        "crowd",
        "2 producers × 2 consumers, CPU a message",
        "ns",
        [*contenders, Control("cacheline", "C: cache line there and back")],
        [Target("isthmus-2x2", "isthmus-1x1", at_most=1.5)],
        "CPU time of all processes together for one message of 64 B, with the producers on one core and "
        "the consumers on the other. 1 × 1 has the same two cores, so it is the same CPU.",
        "Two cores only: with a core for each of the four processes the locks are contended for in "
        "earnest, which this machine could not show.",
        subject="isthmus-2x2",
        keep={"isthmus-1x1"},
    )


@case("attached")
def attached(choice: Choice) -> Case:
    return Case(
        "attached",
        "put and get with 1 to 64 processes attached",
        "ns",
        [
            *(Alone(ISTHMUS, MESSAGE, attached=n) for n in ATTACHED),
            Control("swap", "C: two compare-and-swaps"),
        ],
        [Target("isthmus-64", "isthmus-1", at_most=FLAT)],
        "One process puts 64 B and gets it back while the others have the queue open and sleep. "
        f"Flat is taken to mean at most {FLAT} × the time of one alone.",
        "The others are idle. Busy ones share the queue's speed among them; that is the case before.",
        subject="isthmus-64",
        keep={f"isthmus-{n}" for n in ATTACHED},
    )


@case("depth")
def depth(choice: Choice) -> Case:
    return Case(
        "depth",
        "put and get at depth 1 to 100,000",
        "ns",
        [
            *(Alone(ISTHMUS, MESSAGE, depth=n, capacity=DEEP_CAPACITY) for n in DEPTHS),
            Control("swap", "C: two compare-and-swaps"),
        ],
        [Target("isthmus-100000", "isthmus-1", at_most=FLAT)],
        "One process puts 64 B and gets the oldest message of a queue that always holds so many; all "
        f"queues have 32 MiB of capacity. Flat is taken to mean at most {FLAT} × the time at depth 1.",
        "Past the size of the caches the oldest message comes from memory; with messages of 64 B "
        "prefetching hides that, with larger ones it does not.",
        subject="isthmus-100000",
        keep={f"isthmus-{n}" for n in DEPTHS},
    )
