"""One message there and back between two event loops."""

from __future__ import annotations

from benches.compare.contenders import Control, LinkTrip
from benches.compare.peers.loops import LOOPS

from .base import Case, Choice, Target, case
from .round_trip import MESSAGE, PAUSE

TARGETS = (
    ("isthmus", "zmq-asyncio"),
    ("isthmus", "aioprocessing"),
    ("isthmus-uvloop", "zmq-asyncio-uvloop"),
    ("isthmus-uvloop", "aioprocessing-uvloop"),
)


def between_loops(key: str, title: str, pause: float, meaning: str, limits: str) -> Case:
    return Case(
        key,
        title,
        "us",
        [
            *(LinkTrip(peer, MESSAGE, pause) for peer in LOOPS),
            Control("futex", "C: futex sleep and wake", round(pause * 1e6)),
        ],
        [Target(subject, base, at_least=3) for subject, base in TARGETS],
        meaning,
        limits,
        latency=True,
    )


@case("aio")
def aio(choice: Choice) -> Case:
    return between_loops(
        "aio",
        "64 B round trip between two event loops",
        0.0,
        "One coroutine awaits `put` and `get`, one in another process answers: 64 bytes, without a pause, "
        "each process with one loop and nothing else in it.",
        "Both loops are awake, so that a library which looks again before it lets its loop sleep saves the "
        "way through epoll. With other tasks in the loop each trip costs at least one turn of it.",
    )


@case("aio-paused")
def aio_paused(choice: Choice) -> Case:
    return between_loops(
        "aio-paused",
        "64 B round trip between two event loops, 1 ms pause before each",
        PAUSE,
        "The asker awaits `asyncio.sleep(0.001)` before each trip, so that both loops sleep in epoll and the "
        "other one has to be woken. Only the trip is timed.",
        "Nearly all of it is the kernel: an eventfd written, an idle core woken, epoll left, twice. It "
        "bounds what any library can gain: two such wake-ups are the floor.",
    )
