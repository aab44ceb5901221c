"""Large messages that are not copied out, or not copied at all."""

from __future__ import annotations

from benches.compare.contenders import Control, FrameStream, ReadStream, TwoPasses
from benches.compare.peers.in_place import FRAMES, LOANED_FRAMES, VIEWS, reading

from .base import BEST, Case, Choice, Target, case
from .stream import message_of

FRAME = 6 << 20


def view(size: int, name: str, choice: Choice) -> Case:
    message = message_of(size)
    return Case(
        f"view-{size}",
        f"{name} stream, bytes to view, every cache line read",
        "GB/s",
        [
            ReadStream(VIEWS, message),
            *(ReadStream(reading(peer), message) for peer in choice.some(size)),
            Control("memcpy", f"C: memcpy of {name}, one core", size),
        ],
        [Target("isthmus", BEST, at_least=1.5), Target("isthmus", "cloudtoid-poll", at_least=1.5)],
        f"Messages of {name}: copied in by the sender; the receiver reads one word of each cache line, by "
        "the same call of NumPy for everyone: in place where the library lets it (Isthmus, iceoryx2), in "
        "the copy it gets elsewhere. The second target is against the fastest of those that copy.",
        "The receiver does next to nothing with the data. The more it does, the less the copy matters. "
        "Where the best peer is iceoryx2, it makes the same one copy and the same reading: what is left to "
        "gain ends at memcpy's own speed.",
        size=size,
    )


@case("view-64k")
def view_64k(choice: Choice) -> Case:
    return view(64 << 10, "64 KiB", choice)


@case("view-1m")
def view_1m(choice: Choice) -> Case:
    return view(1 << 20, "1 MiB", choice)


@case("view-6m")
def view_6m(choice: Choice) -> Case:
    return view(6 << 20, "6 MiB", choice)


@case("frames")
def frames(choice: Choice) -> Case:
    loans = [FrameStream(LOANED_FRAMES, FRAME)] if "iceoryx2" in choice.peers else []
    return Case(
        "frames",
        "frames of 6 MiB, filled in place and summed at the other end",
        "GB/s",
        [
            FrameStream(FRAMES, FRAME),
            *loans,
            TwoPasses(FRAME),
            Control("memcpy", "C: memcpy of 6 MiB", FRAME),
        ],
        [Target("isthmus", "passes", at_least=0.9), Target("isthmus", "iceoryx2", at_least=1)],
        "The producer fills an array where it will be sent, the consumer sums it where it is: two passes "
        "over the memory, on two cores at the same time. Beside it the same two calls of NumPy by one "
        "process on an array of its own, one after the other.",
        "Two cores work here and one there, so a ratio of up to 2 is possible; what takes from it is that "
        "the frame moves from one core's cache to the other's.",
        size=FRAME,
    )
