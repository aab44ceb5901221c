"""One message there and back."""

from __future__ import annotations

from benches.compare.contenders import Control, RoundTrip
from benches.compare.peers import ISTHMUS

from .base import Case, Choice, Target, case

MESSAGE = bytes(range(64))
PAUSE = 0.001


@case("round-trip")
def round_trip(choice: Choice) -> Case:
    return Case(
        "round-trip",
        "64 B round trip",
        "us",
        [
            RoundTrip(ISTHMUS, MESSAGE),
            *(RoundTrip(peer, MESSAGE) for peer in choice.some(64)),
            Control("cacheline", "C: cache line there and back"),
            Control("futex", "C: futex sleep and wake, there and back", 0),
        ],
        [
            Target("isthmus", "cloudtoid-poll", at_most=0.75),
            Target("isthmus", "mp-queue", at_most=0.01),
        ],
        "One process puts 64 bytes on one queue and waits on a second queue for the other's answer, "
        "without a pause. The ratio is of means of 32 trips; the median and p99 are of trips timed one "
        "by one, with the clock's own 50 to 100 ns in them.",
        "It needs both processes on a core of their own: both are awake, and whoever waits still spins. "
        "On one core, or where more processes want to run than there are cores, every trip costs two context "
        "switches (see the next case).",
        latency=True,
    )


@case("round-trip-paused")
def paused(choice: Choice) -> Case:
    extra = [
        peer
        for peer in choice.some(64)
        if peer.key in ("cloudtoid-block", "mp-queue", "os-pipe", "faster-fifo")
    ]
    control = Control("futex", "C: futex sleep and wake, 1 ms pause", round(PAUSE * 1e6))
    return Case(
        "round-trip-paused",
        "64 B round trip, 1 ms pause before each",
        "us",
        [RoundTrip(ISTHMUS, MESSAGE, PAUSE), control, *(RoundTrip(peer, MESSAGE, PAUSE) for peer in extra)],
        [Target("isthmus", control.key, at_most=1.3)],
        "The asker sleeps for 1 ms before each trip, so that the other side has gone to sleep in the kernel: "
        "what a message costs when nobody was expecting it. Only the trip is timed. "
        "The control is two bare futexes in C with the same pause; both its sides go to sleep at once. "
        "A library whose asker spins for a moment before it sleeps saves the second of the two wake-ups "
        "and comes in below it.",
        "Nearly all of it is the kernel waking an idle core (on a virtual machine, an exit to the "
        "hypervisor as well), so it changes with idle states, governor and hypervisor far more than with "
        "the library.",
        latency=True,
    )
